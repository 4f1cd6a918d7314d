"""The options of fastv-run that show a model a video, and what they come to: videos, or images made of frames."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastv_runtime import limits
from fastv_runtime.cli.options.arguments import path, refused, whole
from fastv_runtime.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from fastv_runtime.config.bundle import Manifest
    from fastv_runtime.preprocessing.videos.decoding import Video


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--video",
        dest="videos",
        type=path,
        action="append",
        default=[],
        metavar="FILE",
        help="a video, of which frames are sampled; may be given more than once",
    )
    parser.add_argument(
        "--frames",
        type=whole(1, limits.FRAMES),
        metavar="N",
        help="frames sampled of a video (default: what the bundle says)",
    )
    parser.add_argument(
        "--super-image",
        type=rows_by_columns,
        metavar="ROWSxCOLS",
        help="put so many frames of a video into one image, for models that take no video",
    )


def rows_by_columns(value: str) -> str:
    """Type of a grid of frames, as `parse_grid` reads it."""
    if not re.fullmatch(r"[1-9][0-9]{0,2}x[1-9][0-9]{0,2}", value):
        raise refused(value, "rows x columns, such as 2x3 for 2 rows of 3 frames")
    return value


@dataclass(frozen=True)
class Shown:
    """What becomes of the videos of a command line."""

    videos: tuple[Video, ...] = ()
    images: tuple[Image.Image, ...] = ()
    notes: tuple[str, ...] = ()
    """What was said of videos that became images; the others keep theirs."""


def read_videos(files: Sequence[str], frames: int | None, grid: str | None, manifest: Manifest) -> Shown:
    """The videos at `files` for the model of a bundle. Options are as the command line has them.

    Raises UserError for options that contradict each other, the model or the videos.
    """
    for flag, value in (("--frames", frames), ("--super-image", grid)):
        if value is not None and not files:
            raise UserError(f"{flag} {value}: there is no video to sample: give one with --video")
    if not files:
        return Shown()
    from fastv_runtime.preprocessing import no_videos
    from fastv_runtime.preprocessing.images.super_image import parse_grid
    from fastv_runtime.preprocessing.videos.decoding import open_video

    if grid is not None:
        return _super_images(files, frames, *parse_grid(grid))
    if manifest.video is None:
        raise no_videos(manifest.family)
    count = manifest.video.frames if frames is None else frames
    return Shown(videos=tuple(open_video(file, count) for file in files))


def _super_images(files: Sequence[str], frames: int | None, rows: int, columns: int) -> Shown:
    from fastv_runtime.preprocessing.images.super_image import super_image
    from fastv_runtime.preprocessing.videos.decoding import open_video

    cells = rows * columns
    if frames not in (None, cells):
        raise UserError(f"--frames {frames}: --super-image {rows}x{columns} takes {cells}: leave --frames out")
    videos = [open_video(file, cells) for file in files]
    return Shown(
        images=tuple(super_image(video.frames, rows, columns) for video in videos),
        notes=tuple(note for video in videos for note in video.notes),
    )
