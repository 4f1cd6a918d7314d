"""Every frame is where its time puts it; grids that cannot be filled are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastv_runtime import UserError
from fastv_runtime.preprocessing.images.super_image import parse_grid, super_image

SIDES = st.integers(1, 5)


@given(rows=SIDES, columns=SIDES, width=SIDES, height=SIDES, seed=st.integers(0, 99))
def test_frames_are_tiled_in_time_order(rows: int, columns: int, width: int, height: int, seed: int) -> None:
    shape = (rows * columns, height, width, 3)
    frames = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    sheet = super_image([Image.fromarray(frame) for frame in frames], rows, columns)
    assert (sheet.mode, sheet.size) == ("RGB", (columns * width, rows * height))
    cells = np.asarray(sheet).reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    np.testing.assert_array_equal(cells.reshape(shape), frames)


@pytest.mark.parametrize("count", [0, 5, 7])
def test_a_grid_that_is_not_filled_is_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"a grid of 2 x 3 takes 6 frames and the video gives {count}"):
        super_image([Image.new("RGB", (4, 4))] * count, 2, 3)


def test_frames_of_two_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="frames of one size and the video has 4 x 4, 4 x 5"):
        super_image([Image.new("RGB", (4, 5)), Image.new("RGB", (4, 4))], 1, 2)


@given(st.integers(1, 999), st.integers(1, 999))
def test_a_grid_is_rows_by_columns(rows: int, columns: int) -> None:
    assert parse_grid(f"{rows}x{columns}") == (rows, columns)


@pytest.mark.parametrize("text", ["", "2", "x", "2x", "0x3", "2x0", "-2x3", "2x3x4", "2 x 3", "2by3", "２x3", "2x3\n"])
def test_what_is_no_grid_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="give rows x columns, such as 2x3") as caught:
        parse_grid(text)
    assert "\n" not in str(caught.value)
