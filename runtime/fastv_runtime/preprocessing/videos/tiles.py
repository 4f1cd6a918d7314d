"""Layout `tiles` of videos: every frame is an image of one tile, with text around the frames."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fastv_runtime.config.tile_layouts import TilesVideo
from fastv_runtime.preprocessing.images.tiles import TileImages
from fastv_runtime.preprocessing.videos.number_words import in_words
from fastv_runtime.preprocessing.videos.settings import PIXELS, chosen, video_settings
from fastv_runtime.preprocessing.visual import GraphRun, View, Visual

if TYPE_CHECKING:
    from fastv_runtime.preprocessing.videos.decoding import Video

SETTINGS = (*PIXELS, "do_resize", "size", "resample", "max_image_size")


class TileVideos:
    """Videos of any number of frames."""

    def __init__(self, directory: Path, video: TilesVideo):
        # A frame is never cut; which setting says so tells the two families apart.
        internvl = "crop_to_patches" in video.image.settings
        whole = {"crop_to_patches" if internvl else "do_image_splitting": False}
        settings = video_settings(directory, "InternVLVideoProcessor" if internvl else "SmolVLMVideoProcessor")
        self._images = TileImages(directory, video.image, whole | chosen(settings, SETTINGS))
        self._video = video

    def __call__(self, video: Video) -> Visual:
        frames = [self._images(frame) for frame in video.frames]
        return Visual(
            kind="video",
            graph="vision",
            pieces=tuple(piece for frame in frames for piece in frame.pieces),
            text=self._text(video, frames),
            views=lambda: [
                View(view.image, view.tokens + number * self._video.image.tokens)
                for number, frame in enumerate(frames)
                for view in frame.views()
            ],
        )

    def _text(self, video: Video, frames: list[Visual]) -> tuple[str | GraphRun, ...]:
        marks = self._video.text
        seconds = int(video.timestamps[-1] if video.duration is None else video.duration)
        parts: list[str | GraphRun] = [
            marks.start.format(count=in_words(len(frames)), duration=timedelta(seconds=seconds)),
        ]
        for number, (frame, time) in enumerate(zip(frames, video.timestamps, strict=True), 1):
            minutes, seconds = divmod(int(time), 60)
            parts += [
                marks.between if number > 1 else "",
                marks.frame.format(number=number, time=f"{minutes:02d}:{seconds:02d}"),
                *frame.text,
            ]
        parts.append(marks.end)
        return tuple(part for part in parts if part)
