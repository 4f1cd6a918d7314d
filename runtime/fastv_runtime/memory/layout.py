"""Where things are in one block of memory: names, byte offsets, element types and shapes. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from fastv_runtime.config.base import DType

ALIGNMENT = 256
"""Bytes: what TensorRT asks of a tensor's address, and a multiple of what vectorised kernels on a CPU like best."""

Specs = Mapping[str, tuple[DType, tuple[int, ...]]]
"""Element type and shape of every buffer, by its name."""


@dataclass(frozen=True)
class Region:
    """A contiguous array inside a block: byte offset, element type, shape."""

    offset: int
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * numpy_dtype(self.dtype).itemsize

    def leading(self, shape: tuple[int, ...]) -> Region:
        """An array of `shape` at the start of this one. Raises ValueError if it would reach past the end."""
        region = replace(self, shape=shape)
        if region.nbytes > self.nbytes:
            raise ValueError(f"an array of shape {shape} reaches past the end of a buffer of shape {self.shape}")
        return region

    def from_row(self, first: int, shape: tuple[int, ...], axis: int) -> Region:
        """An array of `shape` whose first row is row `first` of this one, rows being along `axis`.

        Raises ValueError past the end, and where rows do not follow each other in memory.
        """
        if prod(shape[:axis]) != 1:
            raise ValueError(f"rows of an array of shape {shape} are not side by side along axis {axis}")
        step = prod(self.shape[axis + 1 :])
        if first + shape[axis] > self.shape[axis] or shape[axis + 1 :] != self.shape[axis + 1 :]:
            raise ValueError(f"an array of shape {shape} from row {first} reaches past the end of one of {self.shape}")
        return Region(self.offset + first * step * numpy_dtype(self.dtype).itemsize, self.dtype, shape)

    def rows(self, start: int, stop: int) -> Region:
        """Rows `start` to `stop` - 1 as [rows, width], of an array [1, .., rows, width]. ValueError past the end."""
        *outer, count, width = self.shape
        if prod(outer) != 1 or not 0 <= start <= stop <= count:
            raise ValueError(f"rows {start} to {stop} reach past the end of a buffer of shape {self.shape}")
        return Region(self.offset + start * width * numpy_dtype(self.dtype).itemsize, self.dtype, (stop - start, width))


class Layout(Mapping[str, Region]):
    """Named regions side by side, each aligned, as one block of `nbytes`."""

    def __init__(self, specs: Specs):
        self._regions: dict[str, Region] = {}
        self.nbytes = 0
        for name, (dtype, shape) in specs.items():
            region = self._regions[name] = Region(self.nbytes, dtype, shape)
            self.nbytes += -(-region.nbytes // ALIGNMENT) * ALIGNMENT

    def __getitem__(self, name: str) -> Region:
        return self._regions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)


def numpy_dtype(dtype: DType) -> np.dtype:
    """What numpy holds elements in. It has no bfloat16: those are moved about as the bits that they are."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)
