"""From pictures and videos to what the vision graphs take. One file per layout of `fastv_runtime.vision`.

A layout is code that only pixels and sizes decide: tiles, patches, packing indices, the text around placeholders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from fastv_runtime.errors import UserError
from fastv_runtime.vision import (
    AnyresVision,
    FixedVision,
    FramesVideo,
    PatchesVideo,
    PatchesVision,
    PooledVideo,
    Video,
    Vision,
)
from fastv_runtime.vision_tiles import TilesVideo, TilesVision
from fastv_runtime.visuals.anyres import AnyresImages
from fastv_runtime.visuals.fixed import FixedImages
from fastv_runtime.visuals.frames import FrameVideos
from fastv_runtime.visuals.patches import PatchImages
from fastv_runtime.visuals.patches_video import PatchVideos
from fastv_runtime.visuals.pooled import PooledVideos
from fastv_runtime.visuals.tile_frames import TileVideos
from fastv_runtime.visuals.tiles import TileImages
from fastv_runtime.visuals.visual import Pack, Piece, Run, View, Visual

Images = Callable[[Image.Image], Visual]
"""Makes a picture ready for the graphs."""

IMAGES: dict[type, Any] = {
    FixedVision: FixedImages,
    AnyresVision: AnyresImages,
    PatchesVision: PatchImages,
    TilesVision: TileImages,
}
VIDEOS: dict[type, Any] = {
    FramesVideo: FrameVideos,
    PooledVideo: PooledVideos,
    PatchesVideo: PatchVideos,
    TilesVideo: TileVideos,
}


def load_images(directory: Path, vision: Vision) -> Images:
    """The code of a layout of pictures. `directory` holds the checkpoint's processor files."""
    return IMAGES[type(vision)](directory, vision)


def load_videos(directory: Path, video: Video) -> Any:
    """The code of a layout of videos: called with a `fastv_runtime.video.Video`, it makes a `Visual`."""
    return VIDEOS[type(video)](directory, video)


def no_videos(family: str) -> UserError:
    """Error for a video that is shown to a model without a layout for videos."""
    return UserError(f"{family} models take no video: put its frames into one picture with --super-image ROWSxCOLS")


__all__ = ["Images", "Pack", "Piece", "Run", "View", "Visual", "load_images", "load_videos", "no_videos"]
