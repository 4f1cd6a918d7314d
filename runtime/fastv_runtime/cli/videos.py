"""The options of fastv-run that show a model a video, and what they come to: videos, or images made of frames."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from fastv_runtime.config.bundle import Manifest
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing import no_videos
from fastv_runtime.preprocessing.images.super_image import parse_grid, super_image
from fastv_runtime.preprocessing.videos.decoding import Video, open_video


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--video",
        dest="videos",
        action="append",
        default=[],
        metavar="FILE",
        help="a video, of which frames are sampled; may be given more than once",
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="frames sampled of a video (default: what the bundle says)"
    )
    parser.add_argument(
        "--super-image",
        metavar="ROWSxCOLS",
        help="put so many frames of a video into one image, for models that take no video",
    )


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
    if grid is not None:
        return _super_images(files, frames, *parse_grid(grid))
    if manifest.video is None:
        raise no_videos(manifest.family)
    count = manifest.video.frames if frames is None else frames
    return Shown(videos=tuple(open_video(file, count) for file in files))


def _super_images(files: Sequence[str], frames: int | None, rows: int, columns: int) -> Shown:
    cells = rows * columns
    if frames not in (None, cells):
        raise UserError(f"--frames {frames}: --super-image {rows}x{columns} takes {cells}: leave --frames out")
    videos = [open_video(file, cells) for file in files]
    return Shown(
        images=tuple(super_image(video.frames, rows, columns) for video in videos),
        notes=tuple(note for video in videos for note in video.notes),
    )
