"""From images and videos to what the vision graphs take. One file per layout of `fastv_runtime.config.layouts`.

A layout is code that only pixels and sizes decide: tiles, patches, packing indices, the text around placeholders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastv_runtime.config.layouts import (
    AnyresVision,
    FixedVision,
    FramesVideo,
    PatchesVideo,
    PatchesVision,
    PooledVideo,
    VideoLayout,
    Vision,
)
from fastv_runtime.config.tile_layouts import TilesVideo, TilesVision
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.anyres import AnyresImages
from fastv_runtime.preprocessing.images.fixed import FixedImages
from fastv_runtime.preprocessing.images.patches import PatchImages
from fastv_runtime.preprocessing.images.tiles import TileImages
from fastv_runtime.preprocessing.processor_settings import check_processor, not_finite
from fastv_runtime.preprocessing.videos.decoding import Video
from fastv_runtime.preprocessing.videos.frames import FrameVideos
from fastv_runtime.preprocessing.videos.patches import PatchVideos
from fastv_runtime.preprocessing.videos.pooled import PooledVideos
from fastv_runtime.preprocessing.videos.tiles import TileVideos
from fastv_runtime.preprocessing.visual import GraphRun, Pack, Piece, View, Visual

Images = Callable[[Image.Image], Visual]
"""Makes an image ready for the graphs."""
Videos = Callable[[Video], Visual]
"""Makes a video ready for the graphs."""

IMAGES: dict[type, Callable[[Path, Any], Images]] = {
    FixedVision: FixedImages,
    AnyresVision: AnyresImages,
    PatchesVision: PatchImages,
    TilesVision: TileImages,
}
VIDEOS: dict[type, Callable[[Path, Any], Videos]] = {
    FramesVideo: FrameVideos,
    PooledVideo: PooledVideos,
    PatchesVideo: PatchVideos,
    TilesVideo: TileVideos,
}


def load_images(directory: Path, vision: Vision) -> Images:
    """The code of a layout of images. `directory` holds the checkpoint's processor files.

    Raises UserError for settings that cannot be used; so does the code, where they make pixels that are not finite.
    """
    check_processor(directory)
    prepare = IMAGES[type(vision)](directory, vision)
    return lambda image: _finite(prepare(image), directory)


def load_videos(directory: Path, video: VideoLayout) -> Videos:
    """The code of a layout of videos; otherwise as `load_images`."""
    check_processor(directory)
    prepare = VIDEOS[type(video)](directory, video)
    return lambda sampled: _finite(prepare(sampled), directory)


def _finite(visual: Visual, directory: Path) -> Visual:
    for piece in visual.pieces:
        if not np.isfinite(piece.inputs["pixel_values"]).all():
            raise not_finite(directory)
    return visual


def no_videos(family: str) -> UserError:
    """Error for a video that is shown to a model without a layout for videos."""
    return UserError(f"{family} models take no video: put its frames into one image with `super_image` ROWSxCOLS")


__all__ = ["GraphRun", "Images", "Pack", "Piece", "View", "Visual", "load_images", "load_videos", "no_videos"]
