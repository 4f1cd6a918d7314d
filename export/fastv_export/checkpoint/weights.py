"""Weights of a graph as the checkpoint has them: read, cast and transposed block by block, at the time of writing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from fastv_export.checkpoint.checkpoint import STORED_TYPES, StoredTensor
from fastv_runtime.errors import UserError

BLOCK = 32 << 20
"""Bytes of one weight held at once; a writing thread has at most three such blocks: as stored, cast, transposed."""

IR_TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
    "bool": ir.DataType.BOOL,
}


class CheckpointTensor(ir.LazyTensor):
    """A tensor of the checkpoint as an initializer of another element type, or with its axes swapped.

    dtype: as in a io_spec. scratch: memory that its blocks pass through. factor: what values are multiplied by when
    they are written, before they are cast.
    Reading and writing raise UserError for values that are NaN, infinite, or beyond the range of float16.
    """

    def __init__(
        self,
        name: str,
        stored: StoredTensor,
        dtype: str,
        scratch: Scratch,
        *,
        transposed: bool = False,
        factor: float = 1.0,
    ) -> None:
        shape = ir.Shape(stored.shape[::-1] if transposed else stored.shape)
        super().__init__(self._materialise, IR_TYPES[dtype], shape, name=name)
        self._stored, self._scratch, self._transposed, self._factor = stored, scratch, transposed, factor
        self._type: torch.dtype = getattr(torch, dtype)

    def transpose(self, name: str) -> CheckpointTensor:
        """The same matrix with its axes swapped."""
        dtype = str(self._type).removeprefix("torch.")
        return CheckpointTensor(
            name, self._stored, dtype, self._scratch, transposed=not self._transposed, factor=self._factor
        )

    @property
    def stored(self) -> StoredTensor:
        """Where its values are."""
        return self._stored

    @property
    def transposed(self) -> bool:
        """Whether its axes are those of what is stored, swapped."""
        return self._transposed

    @property
    def torch_dtype(self) -> torch.dtype:
        """Its element type, as torch has it."""
        return self._type

    def rows(self, block: int = BLOCK, *, most: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, values) of what is stored, `block` bytes or so and an even number of rows at a time.

        Values are as stored, and valid until the next are asked for. most: about so many rows are read, in blocks that
        are spread over all; None means all.
        """
        stride = 1 if most is None else max(1, self._stored.shape[0] // most)
        for start, part in islice(self._parts(block), 0, None, stride):
            yield start, self._read(part)

    def tofile(self, file: Any) -> None:
        """Write the values at the position of a file on disk."""
        if not self._transposed:
            for _, block in self._blocks():
                file.write(_bytes(block))
            return
        # A block of rows becomes a block of columns: one piece of every row of the result.
        file.flush()
        rows, columns = self._stored.shape
        position, descriptor = file.tell(), file.fileno()
        for start, block in self._blocks():
            turned = self._scratch.take("transposed", block.numel(), block.dtype).view(columns, -1)
            data = _bytes(turned.copy_(block.t()))
            width = len(data) // columns
            if width * columns == self.nbytes:
                _write_at(descriptor, data, position)
                continue
            for column in range(columns):
                piece = data[column * width : (column + 1) * width]
                _write_at(descriptor, piece, position + (column * rows + start) * block.itemsize)

    def _materialise(self) -> ir.Tensor[np.ndarray]:
        whole = torch.cat([block.clone() for _, block in self._blocks()])
        whole = (whole.t() if self._transposed else whole).contiguous()
        array = np.frombuffer(_bytes(whole), self.dtype.numpy()).reshape(self.shape.numpy())
        return ir.Tensor(array, name=self.name)

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, values) of blocks of rows; a block is valid until the next one is asked for."""
        for start, part in self._parts(BLOCK):
            values = self._read(part)
            if self._factor != 1.0:
                values = self._scratch.take("scaled", values.numel(), torch.float32).view(part.shape).copy_(values)
                values *= self._factor
            if values.dtype != self._type:
                values = self._scratch.take("cast", values.numel(), self._type).view(part.shape).copy_(values)
                self._check_range(values)
            yield start, values

    def _parts(self, block: int) -> Iterator[tuple[int, StoredTensor]]:
        stored = self._stored if self._stored.shape else replace(self._stored, shape=(1,))
        step = max(2, 2 * (block * stored.shape[0] // max(stored.nbytes, 1) // 2))
        for start in range(0, stored.shape[0], step):
            yield start, stored.rows(start, min(start + step, stored.shape[0]))

    def _read(self, part: StoredTensor) -> torch.Tensor:
        raw = self._scratch.take("raw", part.nbytes, torch.uint8)
        part.read_into(raw.numpy())
        return raw.view(STORED_TYPES[part.dtype]).view(part.shape)

    def _check_range(self, values: torch.Tensor) -> None:
        if self._type is torch.float16 and not torch.stack(torch.aminmax(values)).isfinite().all():
            raise UserError(
                f"{self._stored.file}: tensor {self._stored.name} has values that float16 cannot hold "
                "(beyond 65504): use `precision` fp32, or bf16 for TensorRT"
            )


class Scratch(threading.local):
    """Memory of one thread, reused for every block: pages of fresh memory cost more than what is done with them."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, name: str, count: int, dtype: torch.dtype) -> torch.Tensor:
        """`count` elements of the buffer called `name`; its former contents are lost."""
        needed = count * dtype.itemsize
        if name not in self._buffers or self._buffers[name].numel() < needed:
            self._buffers[name] = torch.empty(needed, dtype=torch.uint8)
        return self._buffers[name][:needed].view(dtype)


def _bytes(values: torch.Tensor) -> memoryview:
    return values.view(-1).view(torch.uint8).numpy().data


def _write_at(descriptor: int, data: memoryview, position: int) -> None:
    while len(data):
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written
