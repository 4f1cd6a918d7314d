"""What Qwen2-VL and its successors share: images and videos of any size as patches, M-RoPE."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastv_export.families.base import Family
from fastv_export.hf import models as hf_models
from fastv_export.tracing import tower_attention
from fastv_runtime.config.layouts import PatchesVideo, PatchesVision
from fastv_runtime.preprocessing import Visual
from fastv_runtime.preprocessing.images.grid import grid_inputs

IMAGE_TOKENS = 1280
"""Most visual tokens of an image: what the model cards recommend (256 to 1280) to balance cost and quality."""

VIDEO_FRAMES = 8
STEP_TOKENS = 320
"""Most visual tokens of a time step, so that VIDEO_FRAMES frames in groups of two cost what one image does."""


class QwenPatches(Family):
    """Base of the families; none itself."""

    position_axes = 3
    tower_attention = tower_attention.IMPLEMENTATION

    def encode(self, model: Any, **inputs: Any) -> Any:
        # One run of the graph is one image or time step, and in these towers no step attends to another.
        return self.features(hf_models.patch_tower_at(model, boundaries=tower_attention.WHOLE, **inputs))

    def expected(self, model: Any, inputs: dict[str, torch.Tensor]) -> Any:
        """By the tower's own positions, windows and interpolation, so that the golden vectors test ours."""
        rows, columns = (inputs["position_ids"].amax(dim=0) + 1).tolist()
        return self.features(hf_models.patch_tower(model, inputs["pixel_values"], torch.tensor([[1, rows, columns]])))

    def pixels(self, visual: Visual, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        (run,) = visual.runs
        assert run.grid is not None
        (piece,) = visual.pieces
        time, rows, columns = run.grid
        merge = int((len(piece.inputs["pixel_values"]) // piece.rows) ** 0.5)
        return {
            **super().pixels(visual, size),
            "image_grid_thw": torch.tensor([[time, rows * merge, columns * merge]]),
        }

    def features(self, output: tuple[torch.Tensor, ...]) -> Any:
        """The tower's output as the language model takes it: features, and those of deepstack where there are any."""
        return output if len(output) > 1 else output[0]

    def example(self, vision: Any) -> dict[str, np.ndarray]:
        """Odd sides, one longer, and windows that are ragged at both edges."""
        grid = (vision.window or 2) + 1, 2 * (vision.window or 2) + 1
        patches, width = grid[0] * grid[1] * vision.merge**2, int(vision.inputs()[0].shape[1])
        pixel_values = np.random.default_rng(0).standard_normal((patches, width), np.float32)
        return {"pixel_values": pixel_values, **grid_inputs(vision, grid)}

    def vision(self, config: Any, image_tokens: int | None) -> PatchesVision:
        tower = config.vision_config
        return PatchesVision(
            channels=tower.in_channels,
            patch=tower.patch_size,
            frames_per_patch=tower.temporal_patch_size,
            merge=tower.spatial_merge_size,
            max_tokens=IMAGE_TOKENS if image_tokens is None else image_tokens,
        )

    def video(self, config: Any) -> PatchesVideo:
        return PatchesVideo(frames=VIDEO_FRAMES, image=self.vision(config, STEP_TOKENS))
