"""InternVL3 in transformers' own form: tiles by aspect and a thumbnail, shuffled pixels, Qwen2 (arXiv 2504.10479)."""

from __future__ import annotations

from typing import Any

from fastv_export.families.base import Family
from fastv_export.tile_limit import tiles_within
from fastv_runtime.config.tile_layouts import FrameText, TilesVideo, TilesVision, TileText

PATCHES = 12
"""Most tiles of the published image processors, without the thumbnail."""

FRAMES = 8
"""Of a video, as in transformers' documentation of the model."""


class InternVL(Family):
    model_type = "internvl"
    towers = ("internvl_vision",)
    video_marker = "<video>"

    def video_token_id(self, config: Any) -> int:
        return int(config.image_token_id)

    def vision(self, config: Any, image_tokens: int | None) -> TilesVision:
        tower = config.vision_config
        side = _side(config)
        settings: dict[str, bool | int | dict[str, int]] = {"crop_to_patches": True}
        patches = PATCHES
        if image_tokens is not None:
            # The thumbnail takes one tile, but an image of one tile has none.
            patches = min(PATCHES, max(1, tiles_within(image_tokens, side**2) - 1))
            settings["max_patches"] = patches
        return TilesVision(
            tile=tower.image_size[0],
            side=side,
            max_tiles=patches + 1 if patches > 1 else 1,
            settings=settings,
            text=TileText(start="<img>", end="</img>"),
        )

    def video(self, config: Any) -> TilesVideo:
        image = self.vision(config, _side(config) ** 2)
        return TilesVideo(frames=FRAMES, image=image, text=FrameText(frame="Frame{number}: ", between="\n"))


def _side(config: Any) -> int:
    """Visual tokens on each side of a tile."""
    tower = config.vision_config
    return int(tower.image_size[0] // tower.patch_size[0] * config.downsample_ratio)
