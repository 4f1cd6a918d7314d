"""One allocation that holds every buffer a pipeline needs, made once and reused for every prompt."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and what vectorised kernels like best


class Arena:
    """Named arrays inside one zeroed block of memory.

    `specs` maps a name to (dtype, shape). Zeroed, because an attention that masks unwritten cache rows still
    multiplies them by 0, and 0 times a stray NaN is NaN.
    """

    def __init__(self, specs: Mapping[str, tuple[str, tuple[int, ...]]]):
        offsets: dict[str, int] = {}
        total = 0
        for name, (dtype, shape) in specs.items():
            offsets[name] = total
            total += -(-prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
        self._block = np.zeros(total + ALIGNMENT, np.uint8)
        base = -self._block.ctypes.data % ALIGNMENT
        self._arrays = {}
        for name, (dtype, shape) in specs.items():
            start = base + offsets[name]
            size = prod(shape) * np.dtype(dtype).itemsize
            self._arrays[name] = self._block[start : start + size].view(dtype).reshape(shape)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    @property
    def nbytes(self) -> int:
        return self._block.nbytes


def leading(buffer: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A contiguous array of `shape` at the start of a buffer: a view, no copy."""
    return buffer.reshape(-1)[: prod(shape)].reshape(shape)
