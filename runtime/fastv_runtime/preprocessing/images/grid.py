"""Where patches are: what a vision graph of layout `patches` takes beside the pixels. Pure functions of the grid.

A grid is (rows, columns) in visual tokens. Patches come in merge order: the blocks of a visual token in raster order,
the patches of a block in raster order, as transformers' processors emit them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.config.layouts import PatchesVision

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Grid = tuple[int, int]


def grid_inputs(vision: PatchesVision, grid: Grid) -> dict[str, np.ndarray]:
    """All inputs of the graph but `pixel_values`, by name."""
    positions = patch_positions(grid, vision.merge)
    inputs = {"position_ids": positions}
    if vision.window:
        index = window_index(grid, vision.window)
        slots, places = window_slots(grid, vision.window, vision.merge)
        inputs |= {"window_index": index, "window_slots": slots, "window_places": places}
    if vision.position_side:
        indices, weights = interpolation(positions, vision.position_side)
        inputs |= {"interp_indices": indices, "interp_weights": weights}
    return inputs


def patch_positions(grid: Grid, merge: int) -> Int[np.ndarray, "P 2"]:
    """Row and column of each patch, in merge order."""
    rows, columns = grid
    blocks = np.indices((rows * merge, columns * merge)).reshape(2, rows, merge, columns, merge)
    return np.ascontiguousarray(blocks.transpose(1, 3, 2, 4, 0).reshape(-1, 2))


def window_index(grid: Grid, side: int) -> Int[np.ndarray, " N"]:
    """Visual tokens (raster numbers) in window order: windows in raster order, tokens of a window in raster order.

    Windows at the right and lower edge hold what is left: they are ragged.
    """
    return np.argsort(_windows(grid, side), kind="stable")


def window_slots(grid: Grid, side: int, merge: int) -> tuple[Int[np.ndarray, "windows size"], Int[np.ndarray, " P"]]:
    """Windows padded to one size, so that they are one batch of attention.

    slots: for each window and each of its places, the patch there, numbered in window order; -1 is none.
    places: the inverse, for each patch in window order its place, counted through all windows.
    """
    _, sizes = np.unique(_windows(grid, side), return_counts=True)
    size = (side * merge) ** 2
    taken = np.arange(size) < (sizes * merge**2)[:, None]
    places = np.flatnonzero(taken)
    slots = np.full(taken.shape, -1, np.int64)
    slots.flat[places] = np.arange(places.size)
    return slots, places


def interpolation(
    positions: Int[np.ndarray, "P 2"], side: int
) -> tuple[Int[np.ndarray, "P 4"], Float[np.ndarray, "P 4"]]:
    """Bilinear resampling of a learned square of `side` x `side` positions, corners on corners.

    For each patch the four cells of the square around it, and their weights (fp32). `torch.nn.functional.interpolate`
    with `align_corners` is the same.
    """
    sizes = positions.max(axis=0) + 1
    # fp32 in this order of operations, or a patch that falls on a cell lands a hair beside it.
    place = positions.astype(np.float32) * np.float32(side - 1) / np.maximum(sizes - 1, 1).astype(np.float32)
    low = np.floor(place)
    cells = np.minimum(low[..., None].astype(np.int64) + np.arange(2), side - 1)
    weights = 1 - np.abs((place - low)[..., None] - np.arange(2, dtype=np.float32))
    indices = cells[:, 0, :, None] * side + cells[:, 1, None, :]
    return indices.reshape(-1, 4), (weights[:, 0, :, None] * weights[:, 1, None, :]).reshape(-1, 4)


def _windows(grid: Grid, side: int) -> Int[np.ndarray, " N"]:
    """The window of each visual token in raster order, by its number in raster order."""
    rows, columns = np.indices(grid) // side
    return (rows * -(-grid[1] // side) + columns).reshape(-1)
