"""From images or videos and a question to what the decoder takes: the runtime's preprocessing, the family's tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image

from fastv_calib.samples.preparation import Preparation
from fastv_export import hf
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import Family
from fastv_export.hf import models as hf_models
from fastv_export.tracing import tower_attention
from fastv_runtime.generation.kept_image import numbered
from fastv_runtime.generation.prompts.positions import position_ids
from fastv_runtime.preprocessing import Visual
from fastv_runtime.preprocessing.videos.change import frame_change
from fastv_runtime.preprocessing.videos.decoding import Video


@dataclass(frozen=True)
class DecoderInputs:
    """A prompt of S tokens, embedded."""

    embedded: Float[torch.Tensor, "1 S D"]
    position_ids: Int[torch.Tensor, "axes 1 S"]
    visual: Bool[torch.Tensor, " S"]
    deepstack: tuple[Float[torch.Tensor, "1 S D"], ...] = ()
    """Added after each of the first layers; zero for text."""
    change: Float[torch.Tensor, " S"] | None = None
    """The signal of that name, of videos: no layer shows it (`fastv_runtime.config.cuts`)."""


class InputMaker:
    """Makes prompts for one stock model as the runtime would for its bundle.

    image_tokens: most visual tokens of one image; None means what the family takes. Raises UserError for a decoder
    that cannot be cut.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, model: Any, image_tokens: int | None = None):
        hf.check_decoder(family.decoder(model))
        if family.tower_attention is not None:
            tower_attention.register()
            hf_models.attend(model, {"vision_config": family.tower_attention})
        self._model, self._family = model, family
        self.preparation = Preparation(checkpoint, family, image_tokens)
        self.stop = frozenset(self.preparation.tokens.stop)

    def __call__(self, images: list[Image.Image], prompt: str, videos: Sequence[Video] = ()) -> DecoderInputs:
        """Raises UserError for a prompt that does not fit its images, and for videos where the family takes none."""
        return self.of(self.visuals(images, videos), prompt)

    def visuals(self, images: Sequence[Image.Image], videos: Sequence[Video] = ()) -> list[Visual]:
        """Images and videos ready for the towers. Raises UserError for videos where the family takes none."""
        return [*map(self.preparation.of_image, images), *map(self.preparation.of_video, videos)]

    def grids(self, visuals: Sequence[Visual], prompt: str) -> list[Int[np.ndarray, "rows columns"]]:
        """Which visual token, numbered through the prompt, stands for each place of every view; -1 is none."""
        order = self.preparation.prompts.build(prompt, visuals).order
        return [view.tokens for view in numbered([visuals[index] for index in order])]

    def of(self, visuals: Sequence[Visual], prompt: str) -> DecoderInputs:
        """A prompt of visuals that are ready. Raises UserError where they do not fit it."""
        built = self.preparation.prompts.build(prompt, visuals)
        length = built.token_ids.size
        with torch.no_grad():
            embedded = self._embed(torch.from_numpy(built.token_ids)).clone()
            visual = torch.from_numpy(built.visual)
            order = [visuals[index] for index in built.order]
            features = [torch.cat(rows) for rows in zip(*map(self._features, order), strict=True)]
        first, *rest = (_scattered(embedded * 0, visual, rows) for rows in features)
        embedded[:, visual] = first[:, visual]
        positions = position_ids(self._family.position_axes, length, built.runs)
        change = _change(embedded[0], visuals, built.starts(visuals))
        return DecoderInputs(embedded, torch.from_numpy(positions)[:, None], visual, tuple(rest), change)

    def text(self, tokens: list[int]) -> str:
        """An answer's text, without special tokens and blanks around it."""
        return str(self.preparation.prompts.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def _embed(self, token_ids: Int[torch.Tensor, " S"]) -> Float[torch.Tensor, "1 S D"]:
        rows: torch.Tensor = hf.embeddings_of(self._family.decoder(self._model))(token_ids)
        return rows[None]

    def _features(self, visual: Visual) -> tuple[torch.Tensor, ...]:
        """Features [N, D] of a visual's tokens, then those of each deepstack layer."""
        encode = self._family.encode_frame if visual.graph == "video" else self._family.encode
        pieces = []
        for piece in visual.pieces:
            inputs = {name: torch.from_numpy(array) for name, array in piece.inputs.items()}
            made = encode(self._model, **inputs)
            pieces.append(made if isinstance(made, tuple) else (made,))
        features = tuple(torch.cat(rows) for rows in zip(*pieces, strict=True))
        if visual.pack is None:
            return features
        rows = torch.cat([features[0], self._family.newline(self._model)[None]])
        index, weight = (torch.from_numpy(array) for array in (visual.pack.index, visual.pack.weight))
        return ((rows[index] * weight[..., None]).sum(1),)


def _change(
    embedded: Float[torch.Tensor, "S D"], visuals: Sequence[Visual], starts: Sequence[Sequence[int]]
) -> Float[torch.Tensor, " S"]:
    """How much of a video is new, as the runtime says it: 1 wherever nothing came before, 0 for text."""
    change = torch.zeros(len(embedded))
    for visual, first in zip(visuals, starts, strict=True):
        runs = zip(first, visual.runs, strict=True)
        places = torch.cat([torch.arange(start, start + run.tokens) for start, run in runs])
        change[places] = 1
        if visual.frame_tokens:
            change[places] = torch.from_numpy(frame_change(embedded[places].numpy(), visual.frame_tokens))
    return change


def _scattered(
    rows: Float[torch.Tensor, "1 S D"], visual: Bool[torch.Tensor, " S"], features: Float[torch.Tensor, "N D"]
) -> Float[torch.Tensor, "1 S D"]:
    rows = rows.clone()
    rows[:, visual] = features
    return rows
