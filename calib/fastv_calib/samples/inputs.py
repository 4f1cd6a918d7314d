"""From images or videos and a question to what the decoder takes: the runtime's preprocessing, the family's tower."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image

from fastv_export import hf
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import Family
from fastv_export.hf import models as hf_models
from fastv_export.tracing import tower_attention
from fastv_runtime.config.bundle import PROCESSOR, Tokens
from fastv_runtime.generation.positions import position_ids
from fastv_runtime.generation.prompt import PromptBuilder
from fastv_runtime.preprocessing import Visual, load_images, load_videos, no_videos
from fastv_runtime.preprocessing.videos.decoding import Video


@dataclass(frozen=True)
class DecoderInputs:
    """A prompt of S tokens, embedded."""

    embedded: Float[torch.Tensor, "1 S D"]
    position_ids: Int[torch.Tensor, "axes 1 S"]
    visual: Bool[torch.Tensor, " S"]
    deepstack: tuple[Float[torch.Tensor, "1 S D"], ...] = ()
    """Added after each of the first layers; zero for text."""


class InputMaker:
    """Makes prompts for one stock model as the runtime would for its bundle.

    image_tokens: most visual tokens of one image; None means what the family takes. Raises UserError for a decoder
    that cannot be cut.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, model: Any, image_tokens: int | None = None):
        hf.check_decoder(family.decoder(model))
        config = family.config(checkpoint)
        if family.tower_attention is not None:
            tower_attention.register()
            hf_models.attend(model, {"vision_config": family.tower_attention})
        self._model, self._family = model, family
        self.vision, self.video = family.vision(config, image_tokens), family.video(config)
        self._tokens = Tokens(
            image=family.image_token_id(config),
            video=None if self.video is None else family.video_token_id(config),
            video_marker=None if self.video is None else family.video_marker,
            stop=family.stop_tokens(checkpoint, config),
        )
        self.stop = frozenset(self._tokens.stop)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / PROCESSOR
            family.write_processor(checkpoint, folder)
            self.prompts = PromptBuilder(folder, self._tokens)
            self._images = load_images(folder, self.vision)
            self._videos = None if self.video is None else load_videos(folder, self.video)

    def __call__(self, images: list[Image.Image], prompt: str, videos: Sequence[Video] = ()) -> DecoderInputs:
        """Raises UserError for a prompt that does not fit its images, and for videos where the family takes none."""
        visuals = [*map(self._images, images), *map(self._video, videos)]
        built = self.prompts.build(prompt, visuals)
        length = built.token_ids.size
        with torch.no_grad():
            embedded = self._embed(torch.from_numpy(built.token_ids)).clone()
            visual = torch.from_numpy(built.visual)
            order = [visuals[index] for index in built.order]
            features = [torch.cat(rows) for rows in zip(*map(self._features, order), strict=True)]
        first, *rest = (_scattered(embedded * 0, visual, rows) for rows in features)
        embedded[:, visual] = first[:, visual]
        positions = position_ids(self._family.position_axes, length, built.runs)
        return DecoderInputs(embedded, torch.from_numpy(positions)[:, None], visual, tuple(rest))

    @property
    def frames(self) -> int:
        """Sampled of a video. Raises UserError where the family takes none."""
        if self.video is None:
            raise no_videos(self._family.model_type)
        return self.video.frames

    def text(self, tokens: list[int]) -> str:
        """An answer's text, without special tokens and blanks around it."""
        return str(self.prompts.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def _video(self, video: Video) -> Visual:
        if self._videos is None:
            raise no_videos(self._family.model_type)
        return self._videos(video)

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


def _scattered(
    rows: Float[torch.Tensor, "1 S D"], visual: Bool[torch.Tensor, " S"], features: Float[torch.Tensor, "N D"]
) -> Float[torch.Tensor, "1 S D"]:
    rows = rows.clone()
    rows[:, visual] = features
    return rows
