"""LLaVA-NeXT (LLaVA-1.6): LLaVA-1.5's parts, images in tiles; Vicuna, Mistral and other decoders.

https://llava-vl.github.io/blog/2024-01-30-llava-next
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from fastv_export.families.base import Family
from fastv_export.hf import models as hf_models
from fastv_runtime.config.layouts import AnyresVision
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing import Visual


class LlavaNext(Family):
    model_type = "llava_next"
    towers: tuple[str, ...] = ("clip_vision_model", "siglip_vision_model")

    def vision(self, config: Any, image_tokens: int | None) -> AnyresVision:
        tower = config.vision_config
        vision = AnyresVision(
            tile=tower.image_size,
            side=tower.image_size // tower.patch_size,
            pinpoints=tuple((height, width) for height, width in config.image_grid_pinpoints),
            max_tiles=self.max_tiles(config),
        )
        return vision if image_tokens is None else _at_most(vision, image_tokens)

    def max_tiles(self, config: Any) -> int | None:
        """Grids of more features than so many tiles have are shrunk; None if they are not."""
        return None

    def pixels(self, visual: Visual, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        tiles = super().pixels(visual, size)["pixel_values"]
        return {"pixel_values": tiles[None], "image_sizes": torch.tensor([size])}

    def encode(self, model: Any, **inputs: torch.Tensor) -> Float[torch.Tensor, "N D"]:
        """Features of one tile, before any packing."""
        return hf_models.tile_features(model, **inputs)


def _at_most(vision: AnyresVision, tokens: int) -> AnyresVision:
    """Without the pinpoints on which an image can become more tokens."""
    pinpoints = tuple(pinpoint for pinpoint in vision.pinpoints if vision.tokens_at(pinpoint) <= tokens)
    if not pinpoints:
        least = min(map(vision.tokens_at, vision.pinpoints))
        raise UserError(
            f"`image_tokens` {tokens}: an image of this model takes up to {least} at the smallest of its sizes: "
            f"give {least} or more"
        )
    return vision.model_copy(update={"pinpoints": pinpoints})
