"""Steps of four-bit blocks: of a few, the one whose values are off by least, inputs counted by how large they are.

As in llama.cpp's quantization by an importance matrix: values are rounded on a grid that is narrower than the block's
range, then the step is fitted to them by weighted least squares. On SmolLM2-135M the fit alone saves half of what four
bits add to a text's log-likelihood (docs/precision.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float

SHRUNK = (1.0, 0.9, 0.8, 0.7)
"""Shares of a block's range that grids are tried over: what is beyond is cut off, and the rest has smaller steps."""
LEVELS = 15
"""Steps between the least and the largest value of four bits."""
HALF = 8
"""Of them below zero, where zero has its place in the middle."""


class Grid(NamedTuple):
    """Of blocks [O, B]: values n in -8..7 stand for (n - zero) step."""

    step: Float[torch.Tensor, "O B"]
    zero: Float[torch.Tensor, "O B"] | None
    """None: 0 everywhere."""

    def round(self, blocks: Float[torch.Tensor, "O B b"]) -> Float[torch.Tensor, "O B b"]:
        """n for every value, as a float."""
        values = torch.round(blocks / self.step[..., None])
        if self.zero is not None:
            values += self.zero[..., None]
        return values.clamp_(-HALF, LEVELS - HALF)


def fitted(
    blocks: Float[torch.Tensor, "O B b"], importance: Float[torch.Tensor, "B b"] | None, *, zero_points: bool
) -> Grid:
    """The grid of every block. importance: of the square of an input's error; None counts all alike.

    zero_points: zero may stand anywhere on a grid, so that none of it is lost on a side where a block has no values.
    A step may be 0, for a block of zeros.
    """
    low, high = blocks.amin(-1).clamp_max_(0), blocks.amax(-1).clamp_min_(0)
    zero = None
    if zero_points:
        step = (high - low) / LEVELS
        zero = torch.round(-low / step.clamp_min(torch.finfo(step.dtype).tiny)) - HALF
        least = (-HALF - zero)[..., None]
    else:
        step = torch.maximum(-low, high) / (HALF - 1)
        least = torch.full_like(step, -HALF)[..., None]
    most = least + LEVELS
    weighted = blocks if importance is None else blocks * importance
    best, best_saved = step, torch.zeros_like(step)
    for share in SHRUNK:
        tried = (step * share).clamp_min(torch.finfo(step.dtype).tiny)
        counts = torch.clamp((blocks / tried[..., None]).round_(), least, most)
        along = torch.linalg.vecdot(counts, weighted)
        size = torch.linalg.vecdot(counts, counts if importance is None else counts * importance)
        # The fitted step is along / size, and takes along^2 / size off the sum of squares.
        fit = along / size
        saved = along * fit
        better = saved > best_saved  # not where all counts, or all that count for something, are zero: NaN
        best, best_saved = torch.where(better, fit, best), torch.where(better, saved, best_saved)
    return Grid(best, zero)
