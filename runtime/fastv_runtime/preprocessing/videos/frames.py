"""Layout `frames`: a video is its sampled frames, each seen as an image of one size, one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastv_runtime.config.layouts import FramesVideo
from fastv_runtime.preprocessing.images.fixed import FixedImages
from fastv_runtime.preprocessing.videos.settings import PIXELS, chosen, video_settings
from fastv_runtime.preprocessing.visual import GraphRun, Piece, Visual

SETTINGS = (*PIXELS, "do_resize", "size", "resample", "do_center_crop", "crop_size")


class FrameVideos:
    """Videos whose tokens are those of their frames."""

    def __init__(self, directory: Path, video: FramesVideo):
        settings = video_settings(directory, "VideoLlavaVideoProcessor")
        self._images = FixedImages(directory, video.image, chosen(settings, SETTINGS))
        self._video = video

    def __call__(self, video: Any) -> Visual:
        """`video`: sampled frames, as `fastv_runtime.preprocessing.videos.decoding.Video` holds them."""
        each = self._video.tokens_per_frame
        # A class token that stays comes first, and stands for no place in the image.
        first = each - self._video.image.tokens
        return Visual(
            kind="video",
            graph=self._video.graph,
            pieces=tuple(Piece({"pixel_values": self._images.pixel_values(frame)}, each) for frame in video.frames),
            text=(GraphRun(each * len(video.frames)),),
            views=lambda: [
                self._images.view(frame, number * each + first) for number, frame in enumerate(video.frames)
            ],
        )
