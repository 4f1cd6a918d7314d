"""LLaVA-1.5: a CLIP tower at one fixed size, an MLP projector, a Llama-like decoder (arXiv 2310.03744)."""

from __future__ import annotations

from typing import Any

from fastv_export.families.base import Family
from fastv_runtime.config.layouts import FixedVision


class Llava(Family):
    model_type = "llava"
    towers = ("clip_vision_model", "siglip_vision_model")

    def vision(self, config: Any, image_tokens: int | None) -> FixedVision:
        tower = config.vision_config
        side = tower.image_size // tower.patch_size
        # CLIP's class token comes before its patches, and stays unless the strategy drops it. SigLIP has none.
        whole = config.vision_feature_select_strategy == "full" and tower.model_type == "clip_vision_model"
        return FixedVision(
            image_height=tower.image_size,
            image_width=tower.image_size,
            rows=side,
            columns=side,
            leading=int(whole),
            aspect=self.aspect(config),
        )
