"""LLaVA-OneVision: LLaVA-NeXT's tiles, frames of videos pooled; a SigLIP tower, a Qwen2 decoder (arXiv 2408.03326)."""

from __future__ import annotations

from typing import Any

from fastv_export.families.llava_next import LlavaNext
from fastv_runtime.config.layouts import PooledVideo

FRAMES = 8
"""Of a video, as in transformers' documentation of the model; it was trained with up to 32 (arXiv 2408.03326)."""


class LlavaOnevision(LlavaNext):
    model_type = "llava_onevision"
    towers = ("siglip_vision_model",)

    def max_tiles(self, config: Any) -> int:
        return int(config.vision_aspect_ratio.removeprefix("anyres_max_"))

    def video(self, config: Any) -> PooledVideo:
        tower = config.vision_config
        return PooledVideo(frames=FRAMES, tile=tower.image_size, side=tower.image_size // tower.patch_size)
