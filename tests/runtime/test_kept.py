"""The image of kept patches shows what it says."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fastv_runtime.generation.kept_image import draw_kept
from fastv_runtime.preprocessing import View

GRID = np.arange(16).reshape(4, 4)


def test_kept_patches_are_shown_and_dropped_ones_faded() -> None:
    image = Image.new("RGB", (80, 80), (0, 0, 200))
    drawn = np.asarray(draw_kept([View(image, GRID)], [0, 5, 15]))
    side = drawn.shape[0]
    assert drawn.shape[:2] == (side, side)
    assert side >= 448
    centres = [(int((row + 0.5) * side / 4), int((column + 0.5) * side / 4)) for row in range(4) for column in range(4)]
    shown = {index for index, (y, x) in enumerate(centres) if tuple(drawn[y, x]) == (0, 0, 200)}
    assert shown == {0, 5, 15}


def test_images_stand_side_by_side_in_their_order() -> None:
    views = [View(Image.new("RGB", (80, 80), color), GRID + first) for color, first in (("red", 0), ("blue", 16))]
    drawn = np.asarray(draw_kept(views, [16]))
    left, right = drawn[60, 60], drawn[60, drawn.shape[1] - drawn.shape[0] + 60]
    assert left[0] == 255
    assert left[1] > 200  # faded: nothing of the first image was kept
    assert tuple(right) == (0, 0, 255)
