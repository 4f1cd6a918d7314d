"""An image of what was kept: the model's view, with the dropped patches dimmed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastv_runtime.files import write_atomically
from fastv_runtime.preprocessing import View, Visual

GREY = (120, 120, 120)
"""What dropped patches are dimmed towards: pages are white or dark, and so are most documents."""
SHOWN = 0.25
"""Share of a dropped patch that shows through."""
FRAME = (255, 196, 0)
MIN_SIDE = 448
"""Small images are enlarged to this many pixels, so that patches can be told apart."""
GAP = 16
CAPTION = 18
"""Of the letters above each row, where there are several."""


def numbered(visuals: Sequence[Visual]) -> list[View]:
    """The views of all visuals of a prompt, in its order: tokens are numbered through, -1 stays none."""
    views: list[View] = []
    first = 0
    for visual in visuals:
        views += [replace(view, tokens=np.where(view.tokens < 0, -1, view.tokens + first)) for view in visual.views()]
        first += visual.tokens
    return views


def draw_kept(views: Sequence[View], kept: Sequence[int]) -> Image.Image:
    """The views side by side, dropped patches dimmed and kept ones framed.

    kept: numbers of visual tokens, as the views have them.
    """
    panels = [_panel(view.image, np.isin(view.tokens, list(kept))) for view in views]
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, max(panel.height for panel in panels)), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + GAP
    return sheet


def draw_cuts(views: Sequence[View], cuts: Sequence[tuple[str, Sequence[int]]]) -> Image.Image:
    """A row for each cut, its caption above what `draw_kept` makes of what it kept."""
    rows = [(caption, draw_kept(views, kept)) for caption, kept in cuts]
    font = ImageFont.load_default(CAPTION)
    line = 2 * CAPTION
    width = max(rows[0][1].width, *(4 + int(font.getlength(caption)) for caption, _ in rows))
    size = (width, sum(line + row.height for _, row in rows) + GAP * (len(rows) - 1))
    sheet = Image.new("RGB", size, "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for caption, row in rows:
        draw.text((2, top + line // 2), caption, fill="black", font=font, anchor="lm")
        sheet.paste(row, (0, top + line))
        top += line + row.height + GAP
    return sheet


def _panel(image: Image.Image, mask: np.ndarray) -> Image.Image:
    rows, columns = mask.shape
    scale = max(1, -(-MIN_SIDE // max(image.size)))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    dimmed = Image.blend(Image.new("RGB", image.size, GREY), image, SHOWN)
    alpha = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    panel = Image.composite(image, dimmed, alpha)
    draw = ImageDraw.Draw(panel)
    xs = np.linspace(0, image.width - 1, columns + 1).round().astype(int)
    ys = np.linspace(0, image.height - 1, rows + 1).round().astype(int)
    for row, column in np.argwhere(mask):
        box = (int(xs[column]), int(ys[row]), int(xs[column + 1]), int(ys[row + 1]))
        # Only the outline of a kept region is drawn: a frame around every patch would hide the image.
        if row == 0 or not mask[row - 1, column]:
            draw.line((box[0], box[1], box[2], box[1]), FRAME, 2)
        if row == rows - 1 or not mask[row + 1, column]:
            draw.line((box[0], box[3], box[2], box[3]), FRAME, 2)
        if column == 0 or not mask[row, column - 1]:
            draw.line((box[0], box[1], box[0], box[3]), FRAME, 2)
        if column == columns - 1 or not mask[row, column + 1]:
            draw.line((box[2], box[1], box[2], box[3]), FRAME, 2)
    return panel


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG so that it is there whole or not at all. Raises UserError where that cannot be."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    write_atomically(path, data.getvalue())
