"""SmolVLM2: rows and columns of tiles and the whole image, SigLIP, shuffled pixels, Llama (arXiv 2504.05299)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from fastv_export.families.base import Family
from fastv_export.hf import models as hf_models
from fastv_export.tile_limit import tiles_within
from fastv_runtime.config.tile_layouts import FrameText, TilesVideo, TilesVision, TileText
from fastv_runtime.preprocessing import Visual

SPLITS = 4
"""Most tiles along an edge of an image, in the published image processors."""

FRAMES = 16
"""Of a video: no more tokens than an image. The published processors take one frame a second, at most 64."""

TEXT = TileText(
    tile="<fake_token_around_image><row_{row}_col_{column}>",
    row_end="\n",
    tiles_end="\n",
    whole="<fake_token_around_image><global-img>",
    end="<fake_token_around_image>",
)
FRAME_TEXT = FrameText(
    start="You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n",
    frame="\nFrame from {time}:",
    end="\n\n",
)
"""Both as transformers' SmolVLMProcessor writes them."""


class SmolVLM(Family):
    model_type = "smolvlm"
    video_marker: str | None = "<video>"

    def encode(self, model: Any, **inputs: torch.Tensor) -> Float[torch.Tensor, "N D"]:
        return hf_models.shuffled_tile(model, **inputs)  # the golden vectors go the stock way

    def expected(self, model: Any, inputs: dict[str, torch.Tensor]) -> Float[torch.Tensor, "N D"]:
        return hf_models.image_features(model, pixel_values=inputs["pixel_values"][None])

    def pixels(self, visual: Visual, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": super().pixels(visual, size)["pixel_values"][None]}

    def video_token_id(self, config: Any) -> int:
        return int(config.image_token_id)

    def vision(self, config: Any, image_tokens: int | None) -> TilesVision:
        tower = config.vision_config
        side = _side(config)
        settings: dict[str, bool | int | dict[str, int]] = {"return_row_col_info": True}
        splits = SPLITS
        if image_tokens is not None:
            most = tiles_within(image_tokens, side**2)
            splits = next(splits for splits in range(SPLITS, 0, -1) if _tiles(splits) <= most)
            settings["size"] = {"longest_edge": splits * tower.image_size}
        return TilesVision(tile=tower.image_size, side=side, max_tiles=_tiles(splits), settings=settings, text=TEXT)

    def video(self, config: Any) -> TilesVideo | None:
        return TilesVideo(frames=FRAMES, image=self.vision(config, _side(config) ** 2), text=FRAME_TEXT)


def _side(config: Any) -> int:
    """Visual tokens on each side of a tile."""
    return int(config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor)


def _tiles(splits: int) -> int:
    """Tiles of a square image that is cut so many times along each edge, the whole counted."""
    return splits**2 + 1 if splits > 1 else 1
