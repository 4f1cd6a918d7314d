"""Position ids of a prompt: one axis that counts tokens, or M-RoPE's three (time, height, width).

M-RoPE (Qwen2-VL, arXiv 2409.12191): text advances all three axes together; an image's tokens share the prompt's
position as origin and spread over their grid; what follows starts after the larger of its sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.preprocessing.visual import GraphRun

if TYPE_CHECKING:
    from jaxtyping import Int


def position_ids(axes: int, length: int, runs: Sequence[tuple[int, GraphRun]]) -> Int[np.ndarray, "axes length"]:
    """Positions of a prompt of `length` tokens. `runs`: index of the first token and the run, ascending.

    The next decoded token is at the largest position + 1, on every axis.
    """
    if axes == 1:
        return np.arange(length)[None]
    parts: list[np.ndarray] = []
    done = position = 0

    def text(until: int) -> None:
        nonlocal done, position
        parts.append(np.tile(position + np.arange(until - done), (3, 1)))
        position += until - done
        done = until

    for start, run in runs:
        text(start)
        assert run.grid is not None, "M-RoPE needs the grid of every visual"
        time, rows, columns = run.grid
        grid = np.indices(run.grid).reshape(3, -1)
        # In fp32, as transformers multiplies: at a whole second the last bit decides between two positions.
        grid[0] = np.floor(grid[0].astype(np.float32) * np.float32(run.interval))
        parts.append(position + grid)
        position += max(rows, columns)
        done = start + time * rows * columns
    text(length)
    return np.concatenate(parts, axis=1)
