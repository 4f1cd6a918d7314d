"""Videos from disk: frames spread evenly over the whole, in RGB and the way up they were taken."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from fastv_runtime.errors import UserError, missing_extra
from fastv_runtime.preprocessing.images.limits import reduction

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_FRAME_PIXELS = 16_000_000
"""Videos of larger frames are refused: decoders hold several."""
EXACT_FRAME_PIXELS = 9_000_000
"""Larger frames are reduced while they are brought to RGB; 4096 x 2176 are within it."""
EXACT_SAMPLED_PIXELS = 34_000_000
"""More than so many in all sampled frames together are reduced: 16 of 1920 x 1080 are within it."""
MAX_SAMPLED_PIXELS = 1_000_000_000
"""More than so many before they are reduced are refused."""
_FREED_PIXELS = 20_000_000
"""After so many in sampled frames those that are no longer needed are freed."""
_LEAST_FRAME = 10_000
"""Pixels for which each frame counts at least."""


@dataclass(frozen=True)
class Video:
    """Frames sampled from a video, in time order."""

    frames: tuple[Image.Image, ...]
    """RGB. Fewer than were asked for when the video has fewer. Reduced where they are too many pixels, see `notes`."""
    indices: tuple[int, ...]
    """Which frames of the video these are, from 0."""
    timestamps: tuple[float, ...]
    """Seconds from the video's first frame."""
    total: int
    """Frames that the video has, counted by decoding them: headers may claim more, or nothing."""
    duration: float | None
    """Seconds, as the file says."""
    fps: float | None
    """Frames per second on average, as the file says."""
    notes: tuple[str, ...]
    """What whoever asked should know: fewer frames than asked for, reduced ones, packets that cannot be decoded."""


def open_video(path: str | os.PathLike[str], frames: int) -> Video:
    """`frames` frames of the video at `path`, at `uniform_indices`; all that there are when it has fewer.

    What the file holds decides, not its name. Frames are turned as the display matrix says, and only the sampled ones
    are held: at their coded size, or all reduced by one whole number where they are too many pixels together. All
    frames are decoded, since neither headers nor seeking can be relied on to
    find frame i in every format. Raises UserError for what is not a video, and when PyAV is missing.
    """
    if frames < 1:
        raise UserError(f"`frames` {frames}: must be at least 1")
    path = Path(path)
    _check_file(path)
    try:
        return _sampled(path, frames)
    except UserError:
        raise
    except Exception as error:  # PyAV passes on what it is told, and is told anything by damaged files
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: the video is cut off or damaged ({what}): copy it again") from None


def _sampled(path: Path, frames: int) -> Video:
    total, duration, fps = _header(path, frames)
    sample = _decode(path, uniform_indices(total, frames))
    if sample.total != total:
        sample.frames.clear()
        sample = _decode(path, uniform_indices(sample.total, frames))
    if not sample.frames:
        raise UserError(f"{path}: no decodable frame: the video is cut off or damaged, copy it again")
    notes = []
    if sample.factor > 1:
        size = "{0.width} x {0.height}".format(sample.frames[0])
        notes.append(f"{path}: {len(sample.frames)} frames reduced to {size} pixels each, so that they fit into memory")
    if sample.total < frames:
        notes.append(f"{path}: {frames} frames were asked for and the video has {sample.total}: each is taken once")
    if sample.damaged:
        notes.append(f"{path}: cut off or damaged, packets that could not be decoded: {sample.damaged}")
    return Video(
        frames=tuple(sample.frames),
        indices=tuple(sample.indices),
        timestamps=_timestamps(path, sample, fps),
        total=sample.total,
        duration=duration,
        fps=fps,
        notes=tuple(notes),
    )


def uniform_indices(total: int, count: int) -> list[int]:
    """`count` of `total` frames, evenly spread: ascending, first and last included; each once when there are fewer.

    A single one is the first. This is `linspace(0, total - 1, count)` rounded, as Qwen3-VL's video processor in
    transformers has it; LLaVA-NeXT's code truncates where it rounds, and transformers' `default_sample_indices_fn`
    (`i * total // count`) ends before the last frame.
    """
    indices: list[int] = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    return indices


@dataclass
class _Sample:
    """What one pass over a video found."""

    frames: list[Image.Image]
    indices: list[int]
    times: list[Fraction | None]
    """Seconds by the container's clock, exact."""
    total: int = 0
    damaged: int = 0
    factor: int = 1
    """What the frames' sides were divided by."""


def _check_file(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such video")
    if not path.is_file():
        raise UserError(f"{path}: not a file: give the path of a video")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty: copy the video again")


def _header(path: Path, frames: int) -> tuple[int, float | None, float | None]:
    """How many frames the file claims or has packets for, its seconds, its frames per second.

    Raises UserError when the frames to sample would be too large, before any of them is decoded.
    """
    with _opened(path) as (container, stream):
        duration = None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / 1_000_000
        rate = stream.average_rate or stream.guessed_rate
        # Matroska, WebM and MPEG-TS do not count their frames; mostly one packet is one frame.
        total = stream.frames or sum(packet.size > 0 for packet in _packets(container, stream))
        _check_size(path, stream.codec_context.width, stream.codec_context.height, min(total, frames))
        return total, duration, float(rate) if rate else None


def _decode(path: Path, wanted: list[int]) -> _Sample:
    """One pass over the whole video, keeping the frames at the `wanted` indices."""
    import av

    sample = _Sample([], [], [])
    indices = set(wanted)
    unfreed = 0
    with _opened(path) as (container, stream):
        for packet in _packets(container, stream):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                sample.damaged += 1
                continue
            for frame in decoded:
                if sample.total in indices:
                    _check_size(path, frame.width, frame.height, len(wanted))
                    most = min(EXACT_FRAME_PIXELS, EXACT_SAMPLED_PIXELS // len(wanted))
                    sample.factor = reduction(frame.width, frame.height, most)
                    sample.frames.append(_upright(frame, sample.factor))
                    sample.indices.append(sample.total)
                    sample.times.append(_time_of(frame))
                    unfreed += frame.width * frame.height
                sample.total += 1
            # A frame whose side data were read refers to itself: nothing but the collector frees its pixels.
            if unfreed > _FREED_PIXELS:
                gc.collect()
                unfreed = 0
    return sample


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets, up to its end or to where the file can be read no further."""
    import av

    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        return


def _time_of(frame: VideoFrame) -> Fraction | None:
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def _upright(frame: VideoFrame, factor: int) -> Image.Image:
    """The frame in RGB, its sides divided by `factor` and rounded up, turned and mirrored as its display matrix says.

    The matrix [a b u; c d v; x y w] takes (p, q) to (a p + c q, b p + d q), q downwards: ISO/IEC 14496-12, 6.2.2.
    Other angles than quarter turns are left as they are.
    """
    size = {"width": -(-frame.width // factor), "height": -(-frame.height // factor), "interpolation": "AREA"}
    image: Image.Image = frame.to_image(**(size if factor > 1 else {}))
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    linear = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].astype(float)
    signs = np.round(linear / max(1.0, np.abs(linear).max())).astype(int)
    turn = _TURNS.get(tuple(signs.reshape(-1).tolist()))
    return image if turn is None else image.transpose(turn)


# Keys are the signs of (a, b, c, d). Pillow's rotations are counterclockwise.
_TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def _timestamps(path: Path, sample: _Sample, fps: float | None) -> tuple[float, ...]:
    """Seconds from the first frame, from the frames' own times; a bare stream has none, there fps decides."""
    known = [time for time in sample.times if time is not None]
    if len(known) == len(sample.times):
        return tuple(float(time - known[0]) for time in known)
    if fps is None:
        raise UserError(f"{path}: the video has neither timestamps nor a frame rate: convert it to MP4")
    return tuple(index / fps for index in sample.indices)


def _check_size(path: Path, width: int, height: int, frames: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise UserError(f"{path}: {width} x {height} pixels, the limit is {MAX_FRAME_PIXELS:,} in all: scale it down")
    if max(width * height, _LEAST_FRAME) * frames > MAX_SAMPLED_PIXELS:
        raise UserError(
            f"{path}: {frames} frames of {width} x {height} pixels, the limit is {MAX_SAMPLED_PIXELS:,} in all: "
            "sample fewer with `frames`, or scale it down"
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container at `path` and the stream in it that is a video."""
    try:
        import av
    except ImportError:
        raise missing_extra("av", "video") from None
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        try:
            container = av.open(_Nameless(file), "r", container_options=_NO_OTHER_FILES, metadata_errors="replace")
        except av.FFmpegError as error:
            raise UserError(
                f"{path}: not a video in a known format, or cut off ({error.strerror}): convert it to MP4"
            ) from None
        with container:
            if container.format.name.endswith("_pipe"):  # FFmpeg's readers of single images
                raise UserError(f"{path}: an image file, not a video: give it with `images`")
            # A sound file's cover is a video stream of one attached image.
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise UserError(f"{path}: no video stream in it, only sound or text: give a file with images")
            if streams[0].codec_context is None:
                raise UserError(f"{path}: coded in a way that PyAV cannot decode: convert it to MP4 with H.264")
            yield container, streams[0]


# A playlist can name other files and addresses; no protocol is allowed to open them.
_NO_OTHER_FILES = {"protocol_whitelist": "none"}


class _Nameless:
    """An open file without its name, by which FFmpeg would guess the format before it looks inside."""

    def __init__(self, file: BinaryIO):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell
