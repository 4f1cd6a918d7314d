"""Layout `patches`, for videos: frames in groups that share their patches, one group a time step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastv_runtime.vision import PatchesVideo, PatchesVision
from fastv_runtime.visuals.patches import Limits, PatchImages, clamp
from fastv_runtime.visuals.visual import Run, Visual

SETTINGS = ("video_preprocessor_config.json", "processor_config.json", "preprocessor_config.json")
"""Where transformers looks for a video processor's settings, first to last."""


class PatchVideos:
    """Videos of any size: each time step is seen as a picture is, and no step sees another."""

    def __init__(self, directory: Path, video: PatchesVideo):
        self._images = PatchImages(directory, video.picture)
        self._limits = video_limits(directory, video.picture)
        self._video = video

    def __call__(self, video: Any) -> Visual:
        """`video`: sampled frames, as `fastv_runtime.video.Video` holds them."""
        group = self._video.picture.frames_per_patch
        # The last frame fills up its group.
        missing = -len(video.frames) % group
        frames, times = ([*each, *each[-1:] * missing] for each in (video.frames, video.timestamps))
        share = len(video.frames) if self._video.clip_limits else 1
        limits = clamp((self._limits[0] // share, self._limits[1] // share), self._video.picture)
        seen = [self._images.patches(frame, limits) for frame in frames]
        grid = seen[0][1]
        patches = [each for each, _ in seen]
        starts = range(0, len(frames), group)
        pieces = tuple(self._images.piece(patches[start : start + group], grid) for start in starts)
        tokens = pieces[0].rows
        text: tuple[str | Run, ...]
        if self._video.step_text is None:
            interval = self._interval(video.timestamps)
            text = (Run(tokens * len(pieces), (len(pieces), *grid), interval),)
        else:
            before, after = self._video.step_text
            steps = ((times[start] + times[start + group - 1]) / 2 for start in starts)
            text = tuple(
                part
                for seconds in steps
                for part in (before.replace("{seconds}", f"{seconds:.1f}"), Run(tokens, (1, *grid)), after)
            )
        return Visual(
            kind="video",
            graph="vision",
            pieces=pieces,
            text=text,
            views=lambda: [
                self._images.view(frames[start], grid, number * tokens) for number, start in enumerate(starts)
            ],
        )

    def _interval(self, times: tuple[float, ...]) -> float:
        """Positions along the time axis from one time step to the next."""
        if self._video.ticks_per_second is None or len(times) < 2:
            return 1.0
        spacing = (times[-1] - times[0]) / (len(times) - 1)
        return self._video.ticks_per_second * spacing * self._video.picture.frames_per_patch


def video_limits(directory: Path, picture: PatchesVision) -> Limits:
    """Fewest and most pixels of a frame (or of all together), as the checkpoint's video processor has them."""
    for name in SETTINGS:
        file = directory / name
        if not file.is_file():
            continue
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings = settings.get("video_processor", {}) if name == "processor_config.json" else settings
        size = settings.get("size") or {}
        least = settings.get("min_pixels", size.get("shortest_edge", size.get("min_pixels")))
        most = settings.get("max_pixels", size.get("longest_edge", size.get("max_pixels")))
        if least and most:
            return int(least), int(most)
    # The defaults of transformers' video processors: 128 to 768 visual tokens a frame.
    token = (picture.patch * picture.merge) ** 2
    return 128 * token, 768 * token
