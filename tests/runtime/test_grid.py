"""Where patches are: as transformers computes it, over many grids."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import vision_utils

from fastv_runtime.config.layouts import PatchesVision
from fastv_runtime.preprocessing.images.grid import (
    grid_inputs,
    interpolation,
    patch_positions,
    window_index,
    window_slots,
)

sides = st.integers(1, 23)
grids = st.tuples(sides, sides)
merges = st.integers(1, 3)


def patches(grid: tuple[int, int], merge: int) -> torch.Tensor:
    """transformers' grid_thw of one image."""
    return torch.tensor([[1, grid[0] * merge, grid[1] * merge]])


@given(grid=grids, merge=merges)
def test_positions(grid: tuple[int, int], merge: int) -> None:
    expected = vision_utils.get_vision_position_ids(patches(grid, merge), merge)
    np.testing.assert_array_equal(patch_positions(grid, merge), expected.numpy())


@given(grid=grids, merge=merges, side=st.integers(1, 9))
def test_windows_whole_and_ragged(grid: tuple[int, int], merge: int, side: int) -> None:
    patch = 14
    index, boundaries = vision_utils.get_vision_window_index(patches(grid, merge), merge, side * merge * patch, patch)
    np.testing.assert_array_equal(window_index(grid, side), index.numpy())
    slots, places = window_slots(grid, side, merge)
    ends = boundaries.tolist()
    assert len(slots) == len(ends) - 1
    for row, first, end in zip(slots, ends, ends[1:], strict=False):
        np.testing.assert_array_equal(row[row >= 0], np.arange(first, end))
    np.testing.assert_array_equal(slots.reshape(-1)[places], np.arange(grid[0] * grid[1] * merge**2))
    assert (slots < 0).sum() == slots.size - places.size


@given(grid=grids, merge=merges, side=st.integers(1, 48))
def test_interpolation(grid: tuple[int, int], merge: int, side: int) -> None:
    expected = vision_utils.get_vision_interpolation_indices_and_weights(
        patches(grid, merge), side, align_corners=True, spatial_merge_size=merge
    )
    indices, weights = interpolation(patch_positions(grid, merge), side)
    np.testing.assert_array_equal(indices, expected[0].numpy())
    np.testing.assert_array_equal(weights, expected[1].numpy())


@given(grid=grids, merge=merges, window=st.integers(0, 5), position_side=st.integers(0, 9))
def test_what_a_graph_takes_is_what_its_layout_declares(
    grid: tuple[int, int], merge: int, window: int, position_side: int
) -> None:
    vision = PatchesVision(
        channels=3,
        patch=4,
        frames_per_patch=2,
        merge=merge,
        max_tokens=9,
        window=window,
        position_side=position_side,
    )
    inputs = grid_inputs(vision, grid)
    declared = {tensor.name: tensor for tensor in vision.inputs()}
    assert inputs.keys() == declared.keys() - {"pixel_values"}
    lengths = {"N": grid[0] * grid[1], "P": grid[0] * grid[1] * merge**2}
    for name, array in inputs.items():
        assert array.dtype == declared[name].dtype
        for size, axis in zip(array.shape, declared[name].shape, strict=True):
            assert axis == "W" or size == lengths.get(str(axis), axis)
