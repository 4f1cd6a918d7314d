"""Video-LLaVA: one CLIP tower for images and another for the frames of videos, Vicuna (arXiv 2311.10122)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from fastv_export.families.base import Family
from fastv_export.hf import models as hf_models
from fastv_runtime.config.layouts import FixedVision, FramesVideo
from fastv_runtime.preprocessing import Visual


class VideoLlava(Family):
    model_type = "video_llava"
    towers = ("clip_vision_model",)

    def encode_frame(self, model: Any, pixel_values: Float[torch.Tensor, "1 3 H W"]) -> Float[torch.Tensor, "N D"]:
        """A frame keeps its class token."""
        return hf_models.frame_features(model, pixel_values)

    def pixels(self, visual: Visual, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {"pixel_values_images": super().pixels(visual, size)["pixel_values"]}

    def vision(self, config: Any, image_tokens: int | None) -> FixedVision:
        size, patch = config.vision_config.image_size, config.vision_config.patch_size
        side = size // patch
        return FixedVision(image_height=size, image_width=size, rows=side, columns=side, aspect=self.aspect(config))

    def video(self, config: Any) -> FramesVideo:
        # Images may be padded; frames were cropped in training, whatever the config says of images.
        image = self.vision(config, None).model_copy(update={"aspect": "crop"})
        each = image.tokens + 1
        return FramesVideo(graph="video", frames=config.video_seq_length // each, image=image, tokens_per_frame=each)
