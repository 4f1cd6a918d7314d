"""Resizing a grid of features, told as which features to mix into each of the new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Mixture: TypeAlias = "tuple[Int[np.ndarray, '*grid taps'], Float[np.ndarray, '*grid taps']]"
"""Features to mix into each token, and their weights."""


def single(index: Int[np.ndarray, "*grid"], taps: int) -> Mixture:
    """Tokens that are one feature each: the others of their `taps` weigh nothing."""
    weight = np.zeros((*index.shape, taps), np.float32)
    weight[..., 0] = 1
    return np.repeat(index[..., None], taps, axis=-1), weight


def bilinear(index: Int[np.ndarray, "h w"], rows: int, columns: int) -> Mixture:
    """A grid of feature numbers resized to `rows` x `columns`; four features each.

    As torch's `interpolate(mode="bilinear", align_corners=False)`: centres of cells are half a cell from the edge,
    and nothing is smoothed before shrinking.
    """
    top, down = _axis(index.shape[0], rows)
    left, right = _axis(index.shape[1], columns)
    corners = [(y, x) for y in top for x in left]
    weights = [y[:, None] * x for y in down for x in right]
    return np.stack([index[y[:, None], x] for y, x in corners], -1), np.stack(weights, -1).astype(np.float32)


def _axis(old: int, new: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The two neighbours of each new place on one axis, and their weights."""
    place = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    before = np.minimum(place.astype(np.int64), old - 1)
    share = place - before
    return (before, np.minimum(before + 1, old - 1)), (1 - share, share)
