"""What export must know of an architecture, with the answers that most of transformers' models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from fastv_export.checkpoint.checkpoint import Checkpoint, StoredTensor
from fastv_export.checkpoint.generation_config import generation_config
from fastv_export.checkpoint.processor_files import copy_processor
from fastv_export.hf import models as hf_models
from fastv_runtime.config.bundle import Tokens
from fastv_runtime.config.layouts import Aspect, VideoLayout, Vision
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing import Visual

FAMILIES: dict[str, Family] = {}
"""Registered families by `model_type` of the checkpoint's config."""


class Family:
    """One architecture. Subclasses say what differs and register themselves by naming their `model_type`."""

    model_type: str
    position_axes: Literal[1, 3] = 1
    """Axes of a position id: 3 for M-RoPE."""
    tower_attention: str | None = None
    """Attention implementation that the tower is traced with; None leaves it as transformers sets it."""
    towers: tuple[str, ...] = ()
    """Vision towers, by `vision_config.model_type`, that the layout is right for; empty where there is but one."""
    video_marker: str | None = None
    """What stands for a whole video in the chat template, where that is not the placeholder of its tokens."""

    def __init_subclass__(cls) -> None:
        if "model_type" in cls.__dict__:  # what several families share is none itself
            FAMILIES[cls.model_type] = cls()

    def model_class(self) -> Any:
        """The stock transformers class of the whole model."""
        return hf_models.model_class(self.model_type)

    def config(self, checkpoint: Checkpoint) -> Any:
        """transformers' config object of a checkpoint."""
        return checkpoint.config

    def build(self, config: Any) -> Any:
        """The model in fp32; its parameters are on whatever device torch builds on."""
        return hf_models.build(self.model_class(), config)

    def weights(self, model: Any, checkpoint: Checkpoint) -> dict[str, StoredTensor]:
        """The stored tensor of each parameter and buffer, by its name in `model`.

        Old key names go through transformers' own renames.
        """
        names = hf_models.renamed(model, checkpoint.tensors)
        return {names[name]: tensor for name, tensor in checkpoint.tensors.items()}

    def load(self, checkpoint: Checkpoint) -> Any:
        """The model with its weights, in fp32, with eager attention: the only one that returns attention weights."""
        return hf_models.load(self.model_class(), checkpoint.path)

    def decoder(self, model: Any) -> Any:
        """The language model, as `fastv_export.hf` knows its parts."""
        return hf_models.decoder(model)

    def head(self, model: Any) -> nn.Module:
        """From the last hidden state to logits."""
        return hf_models.head(model)

    def encode(self, model: Any, **inputs: torch.Tensor) -> Float[torch.Tensor, "N D"] | tuple[torch.Tensor, ...]:
        """Visual features of one run of the vision graph, from its inputs by name, as the language model takes them.

        With deepstack, a tuple: the features, then those of each layer.
        """
        return hf_models.image_features(model, **inputs)

    def encode_frame(self, model: Any, pixel_values: Float[torch.Tensor, "1 3 H W"]) -> Float[torch.Tensor, "N D"]:
        """The same for one frame of a video, where the model has a tower of its own for videos (graph `video`)."""
        raise NotImplementedError

    def newline(self, model: Any) -> nn.Parameter:
        """The embedding [D] that ends a row of visual tokens, where the layout packs them (graph `pack`)."""
        return hf_models.newline(model)

    def example(self, vision: Vision) -> dict[str, np.ndarray]:
        """Inputs of the vision graph for its golden vectors; a layout with dynamic axes chooses an awkward size."""
        rng = np.random.default_rng(0)
        return {
            tensor.name: rng.standard_normal([int(axis) for axis in tensor.shape], np.float32)
            for tensor in vision.inputs()
        }

    def expected(self, model: Any, inputs: dict[str, torch.Tensor]) -> Any:
        """What the stock model makes of the example; as `encode`, but by the model's own way in where that differs."""
        return self.encode(model, **inputs)

    def pixels(self, visual: Visual, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """What the stock model takes of one image, by its own names, from what our graphs take.

        size: of the image, (height, width).
        """
        return {"pixel_values": torch.cat([torch.from_numpy(each.inputs["pixel_values"]) for each in visual.pieces])}

    def last_logits(
        self, model: Any, token_ids: torch.Tensor, pixels: dict[str, torch.Tensor], visual: torch.Tensor, rows: int
    ) -> Float[torch.Tensor, "rows V"]:
        """Logits of the last rows of a prompt by the stock model's own forward; as `hf_models.last_logits`."""
        return hf_models.last_logits(model, token_ids, pixels, visual, rows)

    def image_token_id(self, config: Any) -> int:
        """Id of the placeholder that stands for one visual token of an image."""
        return int(config.image_token_id)

    def video_token_id(self, config: Any) -> int | None:
        """The same for a video, where the family has a layout for videos."""
        token: int | None = config.video_token_id
        return token

    def aspect(self, config: Any) -> Aspect:
        """What becomes of images that are not square, where the tower sees one size."""
        return "pad" if getattr(config, "image_aspect_ratio", None) == "pad" else "crop"

    def vision(self, config: Any, image_tokens: int | None) -> Vision:
        """The layout of images. `image_tokens`: most visual tokens of one image; None means the family's own."""
        raise NotImplementedError

    def video(self, config: Any) -> VideoLayout | None:
        """The layout of videos; None if the family takes none."""
        return None

    def deepstack_layers(self, config: Any) -> int:
        """After how many first layers visual features are added to the hidden states."""
        return 0

    def max_positions(self, config: Any) -> hf_models.Limit | None:
        """Positions up to which the graphs compute what the original does; None means no limit is known.

        By default the decoder's windows, since the graphs' mask has none, and its rotary embedding's original length.
        """
        return hf_models.position_limit(config.get_text_config())

    def stop_tokens(self, checkpoint: Checkpoint, config: Any) -> tuple[int, ...]:
        """End-of-sequence ids, as `generate` would use them: the generation config's, else the text config's."""
        stop = generation_config(checkpoint).eos_token_id
        if stop is None:
            stop = getattr(config.get_text_config(), "eos_token_id", None)
        if stop is None:
            return ()
        stops = tuple(stop) if isinstance(stop, list) else (stop,)
        if not all(isinstance(each, int) and each >= 0 for each in stops):
            raise UserError(f"{checkpoint.path}: eos_token_id {stop!r}: must be the id of a token, or a list of them")
        return stops

    def tokens(self, checkpoint: Checkpoint, config: Any) -> Tokens:
        """Special token ids, as a bundle records them."""
        takes_videos = self.video(config) is not None
        return Tokens(
            image=self.image_token_id(config),
            video=self.video_token_id(config) if takes_videos else None,
            video_marker=self.video_marker if takes_videos else None,
            stop=self.stop_tokens(checkpoint, config),
        )

    def write_processor(self, checkpoint: Checkpoint, target: Path) -> None:
        """Make the directory `target`, with what the runtime's tokenizer and image processor read."""
        copy_processor(checkpoint.path, target)


def family_of(model_type: str, where: str) -> Family:
    """The family registered for a config's `model_type`; UserError that names the known ones."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UserError(f"{where}: model type {model_type!r} is not supported; known families: {known}")
    return FAMILIES[model_type]
