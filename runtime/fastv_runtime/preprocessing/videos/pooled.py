"""Layout `pooled`: frames of a video squeezed into one tile each, their features pooled two by two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fastv_runtime.config.layouts import PooledVideo
from fastv_runtime.hf import load_image_processor
from fastv_runtime.preprocessing.images.fixed import UNNORMALISED, check_shape, pixels_as_seen
from fastv_runtime.preprocessing.images.resample import bilinear
from fastv_runtime.preprocessing.videos.settings import PIXELS, chosen, video_settings
from fastv_runtime.preprocessing.visual import GraphRun, Pack, Piece, View, Visual

if TYPE_CHECKING:
    from jaxtyping import Float

SETTINGS = (*PIXELS, "do_resize", "size", "resample")


class PooledVideos:
    """Videos of any number of frames: the image processor's base tile, by the video processor's settings."""

    def __init__(self, directory: Path, video: PooledVideo):
        self._processor = load_image_processor(directory)
        self._settings = chosen(video_settings(directory, "LlavaOnevisionVideoProcessor"), SETTINGS)
        self._video = video

    def __call__(self, video: Any) -> Visual:
        """`video`: sampled frames, as `fastv_runtime.preprocessing.videos.decoding.Video` holds them."""
        pack = pool_index(self._video, len(video.frames))
        return Visual(
            kind="video",
            graph="vision",
            pieces=tuple(
                Piece({"pixel_values": self._pixel_values(frame)}, self._video.side**2) for frame in video.frames
            ),
            text=(GraphRun(len(pack.index)),),
            views=lambda: [self._view(frame, number) for number, frame in enumerate(video.frames)],
            pack=pack,
        )

    def _pixel_values(self, frame: Image.Image, **settings: Any) -> Float[np.ndarray, "1 3 H W"]:
        # The first tile is the whole image, whatever its shape.
        square = [[self._video.tile, self._video.tile]]
        batch = self._processor(
            images=frame.convert("RGB"),
            image_grid_pinpoints=square,
            return_tensors="np",
            **(self._settings | settings),
        )
        values = np.ascontiguousarray(batch["pixel_values"][0][:1], np.float32)
        check_shape(values, (1, 3, self._video.tile, self._video.tile))
        return values

    def _view(self, frame: Image.Image, number: int) -> View:
        each = self._video.pooled
        tokens = number * each**2 + np.arange(each**2).reshape(each, each)
        return View(pixels_as_seen(self._pixel_values(frame, **UNNORMALISED)[0]), tokens)


def pool_index(video: PooledVideo, frames: int) -> Pack:
    """Which features of a video's frames make its tokens. As `apply_pooling` of LLaVA-OneVision in transformers."""
    features = video.side**2
    frame = np.arange(features).reshape(video.side, video.side)
    index, weight = (part.reshape(-1, 4) for part in bilinear(frame, video.pooled, video.pooled))
    starts = features * np.arange(frames)[:, None, None]
    newline = np.full((1, 4), features * frames), np.asarray([[1, 0, 0, 0]], np.float32)
    return Pack(
        np.concatenate([(starts + index).reshape(-1, 4), newline[0]]),
        np.concatenate([np.tile(weight, (frames, 1)), newline[1]]),
    )
