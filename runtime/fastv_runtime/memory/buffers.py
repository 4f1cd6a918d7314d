"""Blocks of memory, on the host or on a device, and the buffers in them that graphs read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np

from fastv_runtime.config.base import DType
from fastv_runtime.errors import UserError
from fastv_runtime.memory.layout import ALIGNMENT, Region, numpy_dtype

if TYPE_CHECKING:
    from jaxtyping import UInt8

Place = Literal["cpu", "cuda"]


class Memory(Protocol):
    """One block of zeroed bytes; an offset counts from its start.

    Zeroed, because an attention that masks unwritten cache rows still multiplies them by 0, and 0 times a stray NaN
    is NaN.
    """

    place: Place
    address: int
    """Where the processor of `place` finds the block."""
    nbytes: int

    def write(self, offset: int, data: UInt8[np.ndarray, " n"]) -> None:
        """Put bytes there; whatever runs next on the device finds them."""

    def read(self, offset: int, nbytes: int) -> UInt8[np.ndarray, " n"]:
        """What is there once all work has ended: a view of memory that the host can reach, otherwise a copy."""

    def zero(self, offset: int, nbytes: int) -> None:
        """Set bytes to zero."""


class HostMemory:
    """Memory of the host; the views that `read` gives may be written as well."""

    place: Place = "cpu"

    def __init__(self, block: UInt8[np.ndarray, " n"]):
        self._block = block
        self.address = block.ctypes.data
        self.nbytes = block.nbytes

    @classmethod
    def allocate(cls, nbytes: int) -> HostMemory:
        try:
            block = np.zeros(nbytes + ALIGNMENT, np.uint8)
        except (MemoryError, ValueError):  # numpy holds no array past the address space
            raise UserError(
                f"buffers of {nbytes / 2**30:,.1f} GiB do not fit into memory: export with a smaller max_text, "
                "max_visual or max_new_tokens"
            ) from None
        start = -block.ctypes.data % ALIGNMENT
        return cls(block[start : start + nbytes])

    def write(self, offset: int, data: UInt8[np.ndarray, " n"]) -> None:
        self._block[offset : offset + data.size] = data

    def read(self, offset: int, nbytes: int) -> UInt8[np.ndarray, " n"]:
        return self._block[offset : offset + nbytes]

    def zero(self, offset: int, nbytes: int) -> None:
        self._block[offset : offset + nbytes] = 0


@dataclass(frozen=True)
class Buffer:
    """A region of a memory. Keeps the memory alive."""

    memory: Memory
    region: Region

    @property
    def address(self) -> int:
        return self.memory.address + self.region.offset

    @property
    def dtype(self) -> DType:
        return self.region.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.region.shape

    def leading(self, shape: tuple[int, ...]) -> Buffer:
        """The array of `shape` at the start; ValueError past the end."""
        return Buffer(self.memory, self.region.leading(shape))

    def rows(self, start: int, stop: int) -> Buffer:
        """Rows `start` to `stop` - 1; ValueError past the end."""
        return Buffer(self.memory, self.region.rows(start, stop))

    def write(self, array: np.ndarray) -> None:
        """Fill with an array of the same shape, and of a type that casts within its kind (float32 to float16, say)."""
        if array.shape != self.shape:
            raise ValueError(f"an array of shape {array.shape} for a buffer of shape {self.shape}")
        cast_ = np.ascontiguousarray(array.astype(numpy_dtype(self.dtype), casting="same_kind", copy=False))
        self.memory.write(self.region.offset, cast_.reshape(-1).view(np.uint8))

    def array(self) -> np.ndarray:
        """What the buffer holds: a view where the host reaches the memory, which later runs overwrite; else a copy."""
        data = self.memory.read(self.region.offset, self.region.nbytes)
        return data.view(numpy_dtype(self.dtype)).reshape(self.shape)

    def numbers(self) -> np.ndarray:
        """What a buffer of floating-point numbers holds, in fp32: a copy. numpy knows bfloat16 by its bits alone."""
        held = self.array()
        if self.dtype == "bfloat16":
            return (held.astype(np.uint32) << 16).view(np.float32)
        return held.astype(np.float32)

    def zero(self) -> None:
        self.memory.zero(self.region.offset, self.region.nbytes)


def as_buffer(name: str, array: np.ndarray | Buffer) -> Buffer:
    """A host array as the buffer that it is. Raises ValueError, naming it, for one with gaps."""
    if isinstance(array, Buffer):
        return array
    if not array.flags.c_contiguous:
        raise ValueError(f"the buffer of {name} is not contiguous")
    return Buffer(HostMemory(array.reshape(-1).view(np.uint8)), Region(0, cast(DType, array.dtype.name), array.shape))
