"""The image of kept patches shows what it says."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fastv_runtime.generation.kept_image import FRAME, GREY, SHOWN, draw_cuts, draw_kept
from fastv_runtime.preprocessing import View

GRID = np.arange(16).reshape(4, 4)
KEPT = {0, 5, 15}


def patches(drawn: np.ndarray) -> dict[int, np.ndarray]:
    """What is drawn of each patch of a square panel, by its number, without a frame around it."""
    side = drawn.shape[0] // 4
    return {
        index: drawn[row * side + 4 : (row + 1) * side - 4, column * side + 4 : (column + 1) * side - 4]
        for index, (row, column) in enumerate(np.ndindex(4, 4))
    }


def test_kept_patches_are_shown_and_dropped_ones_dimmed() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (80, 40))  # the most contrast there is
    drawn = np.asarray(draw_kept([View(Image.fromarray(stripes).convert("RGB"), GRID)], list(KEPT)))
    assert drawn.shape == (480, 480, 3)  # a whole number of times the image's own pixels, at least 448
    for index, patch in patches(drawn).items():
        if index in KEPT:
            assert (patch.min(), patch.max()) == (0, 255)
        else:
            assert int(patch.max()) - int(patch.min()) <= SHOWN * 255 + 1
            assert abs(float(patch.mean()) - (1 - SHOWN) * GREY[0] - SHOWN * 127.5) < 2


def test_dropped_patches_of_a_white_document_are_darker_than_the_page() -> None:
    drawn = np.asarray(draw_kept([View(Image.new("RGB", (80, 80), "white"), GRID)], list(KEPT)))
    for index, patch in patches(drawn).items():
        assert (patch == 255).all() if index in KEPT else patch.max() < 200


def test_kept_patches_are_framed_as_one_where_they_touch() -> None:
    image = Image.new("RGB", (80, 80), (0, 0, 200))
    drawn = np.asarray(draw_kept([View(image, GRID)], [5, 6]))
    framed = (drawn == FRAME).all(-1)
    middle = drawn.shape[0] * 3 // 8
    # Of the row through both: their outer edges, not the one between them.
    edges = np.flatnonzero(framed[middle]) / drawn.shape[1] * 4
    assert {round(edge) for edge in edges.tolist()} == {1, 3}
    assert not framed[drawn.shape[0] * 7 // 8].any()


def test_images_stand_side_by_side_in_their_order() -> None:
    views = [View(Image.new("RGB", (80, 80), color), GRID + first) for color, first in (("red", 0), ("blue", 16))]
    drawn = np.asarray(draw_kept(views, [16]))
    left, right = drawn[60, 60], drawn[60, drawn.shape[1] - drawn.shape[0] + 60]
    # Nothing of the first image was kept.
    assert abs(left - np.array(GREY) * (1 - SHOWN) - np.array([255, 0, 0]) * SHOWN).max() <= 1
    assert tuple(right) == (0, 0, 255)


def test_of_several_cuts_each_has_a_row_below_its_caption() -> None:
    views = [View(Image.new("RGB", (80, 80), "red"), GRID), View(Image.new("RGB", (80, 80), "blue"), GRID + 16)]
    cuts = (list(range(20)), [3, 17])
    drawn = draw_cuts(views, [("K=2", cuts[0]), ("K=4", cuts[1])])
    rows = [draw_kept(views, kept) for kept in cuts]
    line = (drawn.height - 16 - sum(row.height for row in rows)) // 2
    assert drawn.width == rows[0].width and line > 0
    for top, row in zip((line, 2 * line + rows[0].height + 16), rows, strict=True):
        assert drawn.crop((0, top, row.width, top + row.height)).tobytes() == row.tobytes()
        caption = np.asarray(drawn.crop((0, top - line, row.width, top)).convert("L"))
        assert caption.min() < 64 and (caption[:, 100:] == 255).all()  # a short word on white


def test_a_caption_is_whole_above_a_narrow_image() -> None:
    tall = [View(Image.new("RGB", (10, 480), "red"), np.arange(16)[:, None])]
    caption = "K=2: 16 of 16 visual tokens"
    narrow, wide = (
        draw_cuts(tall, [(caption, [0])]),
        draw_cuts([View(Image.new("RGB", (480, 480)), GRID)], [(caption, [0])]),
    )
    ink = [np.flatnonzero((np.asarray(each.convert("L"))[:30] < 128).any(0)) for each in (narrow, wide)]
    assert ink[0].tolist() == ink[1].tolist()
