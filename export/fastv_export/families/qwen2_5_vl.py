"""Qwen2.5-VL: most of the tower's layers attend within windows, and M-RoPE's time axis counts real time
(arXiv 2502.13923)."""

from __future__ import annotations

from typing import Any

from fastv_export.families.qwen_patches import QwenPatches
from fastv_export.tracing.tower_attention import Windows
from fastv_runtime.config.layouts import PatchesVideo, PatchesVision


class Qwen25VL(QwenPatches):
    model_type = "qwen2_5_vl"

    def encode(self, model: Any, **inputs: Any) -> Any:
        windows = Windows(inputs.pop("window_slots"), inputs.pop("window_places"))
        return super().encode(model, **inputs, windows=windows)

    def vision(self, config: Any, image_tokens: int | None) -> PatchesVision:
        tower = config.vision_config
        window = tower.window_size // tower.spatial_merge_size // tower.patch_size
        return super().vision(config, image_tokens).model_copy(update={"window": window})

    def video(self, config: Any) -> PatchesVideo:
        ticks = config.vision_config.tokens_per_second
        return super().video(config).model_copy(update={"ticks_per_second": ticks})
