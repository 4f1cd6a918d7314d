"""What a decoder goes on from, copied out of its buffers and back: a conversation that waits for its next question."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from fastv_runtime.memory.buffers import Buffer


@dataclass(frozen=True)
class SavedDecoder:
    """Caches as far as they are filled, and states of the prompt's rows at each cut."""

    given: tuple[np.ndarray, ...]
    """Rows of the prompt that each stage was given."""
    lengths: tuple[int, ...]
    """Keys in each stage's caches."""
    caches: tuple[tuple[np.ndarray, ...], ...]
    """Of each stage, [1, Hkv, keys, Dh]."""
    states: tuple[np.ndarray, ...]
    """[1, rows, D] states, and [1, rows] of what else a cut reads row by row."""

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(each.nbytes for each in (*self.given, *chain(*self.caches), *self.states))


def read_rows(buffer: Buffer, rows: int, axis: int) -> np.ndarray:
    """A copy of the first rows along an axis."""
    return buffer.array()[(slice(None),) * axis + (slice(rows),)].copy()


def write_rows(buffer: Buffer, rows: np.ndarray, axis: int) -> None:
    """The same, put back."""
    whole = buffer.array()
    if not whole.flags.writeable or buffer.memory.place != "cpu":
        whole = whole.copy()
    whole[(slice(None),) * axis + (slice(rows.shape[axis]),)] = rows
    if buffer.memory.place != "cpu":
        buffer.write(whole)
