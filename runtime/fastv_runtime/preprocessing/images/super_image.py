"""Frames of a video tiled into one image, for models that take images but no videos."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image

from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.limits import reduction


def super_image(frames: Sequence[Image.Image], rows: int, columns: int) -> Image.Image:
    """`rows` x `columns` frames as one RGB image, in time order, row by row.

    Frames touch and keep their size: no gaps, no letterbox and no empty cells, so that the image shows nothing but
    the video and the image processor's resize is the only one. The paper puts six frames in 3 rows of 2, which brings
    a wide video close to a square; its code fills a last row that lacks frames with white, here that is refused.
    Frames whose image would be above WORKING_PIXELS of `fastv_runtime.preprocessing.images.limits` are reduced first.
    Raises UserError when the frames do not fill the grid, or differ in size.
    Source: An Image Grid Can Be Worth a Video, arXiv 2403.18406.
    """
    if len(frames) != rows * columns:
        raise UserError(
            f"a grid of {rows} x {columns} takes {rows * columns} frames and the video gives {len(frames)}: "
            "choose another grid"
        )
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        raise UserError(f"a grid takes frames of one size and the video has {_listed(sizes)}: convert it to one size")
    factor = reduction(columns * sizes[0][0], rows * sizes[0][1])
    width, height = (-(-side // factor) for side in sizes[0])
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        sheet.paste(frame.reduce(factor) if factor > 1 else frame, (column * width, row * height))
    return sheet


def _listed(sizes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{width} x {height}" for width, height in sizes)


def parse_grid(text: str) -> tuple[int, int]:
    """Rows and columns of a grid: "2x3" is 2 rows of 3 frames. Raises UserError for anything else."""
    match = re.fullmatch(r"([1-9][0-9]{0,2})x([1-9][0-9]{0,2})", text)
    if match is None:
        raise UserError(f"grid {text!r}: give rows x columns, such as 2x3 for 2 rows of 3 frames")
    return int(match[1]), int(match[2])
