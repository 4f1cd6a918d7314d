"""Layout `patches`, for videos: frames in groups that share their patches, one group a time step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from fastv_runtime.config.layouts import PatchesVideo
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.patches import PatchImages
from fastv_runtime.preprocessing.videos.frame_size import GROUP, clip_frame_size, frame_size
from fastv_runtime.preprocessing.videos.settings import PIXELS, chosen, video_settings
from fastv_runtime.preprocessing.visual import GraphRun, Visual

USUAL_FPS = 24
"""What transformers takes a video for that does not say."""


class PatchVideos:
    """Videos of any size: each time step is seen as an image is, and no step sees another."""

    def __init__(self, directory: Path, video: PatchesVideo):
        self._images = PatchImages(directory, video.image)
        self._video = video
        usual = "Qwen3VLVideoProcessor" if video.clip_limits else "Qwen2VLVideoProcessor"
        self._settings = video_settings(directory, usual)

    def __call__(self, video: Any) -> Visual:
        """`video`: sampled frames, as `fastv_runtime.preprocessing.videos.decoding.Video` holds them."""
        group = self._video.image.frames_per_patch
        # The last frame fills up its group.
        missing = -len(video.frames) % group
        frames, times = ([*each, *each[-1:] * missing] for each in (video.frames, video.timestamps))
        pixels = chosen(self._settings, PIXELS)
        try:
            scaled = [self._scaled(frame, len(video.frames)) for frame in frames]
            seen = [self._images.patches(frame, do_resize=False, **pixels) for frame in scaled]
        except ValueError as error:
            size = f"{frames[0].width} x {frames[0].height}"
            raise UserError(f"a video of {size} pixels: {error}: crop it") from None
        grid = seen[0][1]
        patches = [each for each, _ in seen]
        starts = range(0, len(frames), group)
        pieces = tuple(self._images.piece(patches[start : start + group], grid) for start in starts)
        tokens = pieces[0].rows
        text: tuple[str | GraphRun, ...]
        if self._video.step_text is None:
            interval = self._interval(video)
            text = (GraphRun(tokens * len(pieces), (len(pieces), *grid), interval),)
        else:
            before, after = self._video.step_text
            steps = ((times[start] + times[start + group - 1]) / 2 for start in starts)
            text = tuple(
                part
                for seconds in steps
                for part in (before.replace("{seconds}", f"{seconds:.1f}"), GraphRun(tokens, (1, *grid)), after)
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

    def _interval(self, video: Any) -> float:
        """Positions along the time axis from one time step to the next.

        transformers divides by the frame rate of the sample, which is the share of frames that were taken and not
        the distance between them.
        """
        if self._video.ticks_per_second is None:
            return 1.0
        sampled = USUAL_FPS if video.fps is None else len(video.indices) / video.total * video.fps
        return self._video.ticks_per_second * (self._video.image.frames_per_patch / sampled)

    def _scaled(self, frame: Image.Image, frames: int) -> Image.Image:
        """One of so many frames at the size at which the model sees it. Raises ValueError for slivers."""
        settings, image = self._settings, self._video.image
        frame = frame.convert("RGB")
        if not settings["do_resize"]:
            return frame
        factor = image.patch * image.merge
        least, most = settings["size"]["shortest_edge"], settings["size"]["longest_edge"]
        supported = image.max_tokens * factor**2
        size = frame.height, frame.width
        if self._video.clip_limits:
            if settings.get("cap_pixels_per_frame"):
                each = max(min(settings["max_video_tokens"] * factor**2, most // frames), int(least * 1.05))
                most = each * frames
            counted = min(frames, round(frames / GROUP) * GROUP or frames)
            limits = min(least, supported * counted), min(most, supported * counted)
            height, width = clip_frame_size(size, factor, limits, frames)
        else:
            if settings.get("cap_pixels_per_frame"):
                total = int(settings["max_video_tokens"] * factor**2 * 0.9)
                most = max(min(most, total * image.frames_per_patch // frames), int(least * 1.05))
            height, width = frame_size(size, factor, (min(least, supported), min(most, supported)))
        return frame.resize((width, height), Image.Resampling(settings["resample"]))
