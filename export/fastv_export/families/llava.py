"""LLaVA-1.5: a CLIP tower at one fixed size, an MLP projector, a Llama-like decoder (arXiv 2310.03744)."""

from __future__ import annotations

from typing import Any

from fastv_export.families.base import Family
from fastv_runtime.vision import FixedVision


class Llava(Family):
    model_type = "llava"

    def vision(self, config: Any, image_tokens: int | None) -> FixedVision:
        size, patch = config.vision_config.image_size, config.vision_config.patch_size
        side = size // patch
        return FixedVision(image_height=size, image_width=size, rows=side, columns=side, aspect=self.aspect(config))
