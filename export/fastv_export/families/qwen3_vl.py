"""Qwen3-VL: a learned square of positions stretched over each image, features of three tower layers added to the
first decoder layers (DeepStack), and videos whose time steps are told apart by text (arXiv 2511.21631)."""

from __future__ import annotations

from typing import Any

from fastv_export.families.qwen_patches import QwenPatches
from fastv_runtime.config.layouts import PatchesVideo, PatchesVision


class Qwen3VL(QwenPatches):
    model_type = "qwen3_vl"

    def deepstack_layers(self, config: Any) -> int:
        return len(config.vision_config.deepstack_visual_indexes)

    def vision(self, config: Any, image_tokens: int | None) -> PatchesVision:
        side = int(config.vision_config.num_position_embeddings**0.5)
        return super().vision(config, image_tokens).model_copy(update={"position_side": side})

    def video(self, config: Any) -> PatchesVideo:
        # The tokens' names are those that transformers' processor falls back to; every published tokenizer has them.
        text = "<{seconds} seconds><|vision_start|>", "<|vision_end|>"
        return super().video(config).model_copy(update={"clip_limits": True, "step_text": text})
