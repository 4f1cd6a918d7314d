"""The stock model in bounded memory: parameters that are read from the checkpoint each time an operator needs them.

transformers' own forward runs unchanged. Products with large matrices, and tables of embeddings, never see the whole
parameter: blocks of rows pass through one pair of buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch.utils._pytree import tree_map_only

from fastv_export.checkpoint import Checkpoint, StoredTensor
from fastv_export.families import Family
from fastv_export.skeleton import build_without_weights, stored_parameters
from fastv_export.weights import STORED_TYPES
from fastv_runtime.bundle import Precision

BLOCK = 8 << 20
"""Bytes of fp32 weights held at once: what caches hold, so that a block is still there when it is multiplied."""


def stream_model(
    checkpoint: Checkpoint,
    family: Family,
    precision: Precision = "float32",
    read: Callable[[int], None] = lambda count: None,
    *,
    block: int = BLOCK,
) -> Any:
    """The stock model in fp32 with eager attention, for calls without gradients; no parameter is ever resident.

    precision: of a bundle: weights are rounded to it first, since what it computes from is what it must be compared on.
    read: called with the number of bytes read from the checkpoint since its last call.
    """
    model, by_name = build_without_weights(checkpoint, family)
    model.tie_weights()
    stored = stored_parameters(model, by_name, checkpoint)
    reader = _Reader(block, getattr(torch, precision), read)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = StreamedParameter(stored[id(parameter)], reader)
    model.set_attn_implementation("eager")
    return model


class StreamedParameter(torch.Tensor):
    """Stands for an fp32 parameter; operators get its values, read for the occasion.

    `transposed`: a matrix that has been transposed, which its stored bytes have not.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    stored: StoredTensor
    reader: _Reader
    transposed: bool

    @staticmethod
    def __new__(cls, stored: StoredTensor, reader: _Reader, transposed: bool = False) -> StreamedParameter:
        shape = stored.shape[::-1] if transposed else stored.shape
        self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=torch.device("cpu"))
        self.stored, self.reader, self.transposed = stored, reader, transposed
        return self

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = _HANDLERS.get(func)
        if handler is not None:
            result = handler(*args, **kwargs)
            if result is not NotImplemented:
                return result
        args, kwargs = tree_map_only(cls, cls.read, (args, kwargs))
        return func(*args, **kwargs)

    def read(self) -> torch.Tensor:
        """All values, in memory of their own."""
        raw = self.reader.read(self.stored, np.empty(self.stored.nbytes, np.uint8))
        values = raw.float().view(self.stored.shape)
        return values.t() if self.transposed else values


class _Reader:
    """Two buffers that all blocks pass through: fresh memory costs more than the reading and the arithmetic."""

    def __init__(self, block: int, precision: torch.dtype, read: Callable[[int], None]):
        self.block = block
        self._precision = precision
        self._raw = np.empty(block, np.uint8)
        self._values = torch.empty(block // 4, dtype=torch.float32)
        self._read = read

    def read(self, stored: StoredTensor, buffer: UInt8[np.ndarray, " nbytes"]) -> torch.Tensor:
        """The values as they are in the bundle, flat, through `buffer`."""
        stored.read_into(buffer)
        self._read(stored.nbytes)
        values = torch.from_numpy(buffer).view(STORED_TYPES[stored.dtype])
        return values if self._precision is torch.float32 else values.to(self._precision)

    def rows(self, stored: StoredTensor) -> torch.Tensor:
        """Rows of a matrix that fit the block, in fp32; valid until the next call."""
        raw = self.read(stored, self._raw[: stored.nbytes])
        values = self._values[: raw.numel()]
        return values.copy_(raw).view(stored.shape)


def _transpose(matrix: StreamedParameter, *axes: int) -> Any:
    if matrix.ndim != 2 or (axes and sorted(axis % 2 for axis in axes) != [0, 1]):
        return NotImplemented
    return StreamedParameter(matrix.stored, matrix.reader, not matrix.transposed)


def _product(rows: Float[torch.Tensor, "S I"], matrix: Any) -> Any:
    return _add_product(None, rows, matrix)


def _add_product(bias: torch.Tensor | None, rows: Float[torch.Tensor, "S I"], matrix: Any, **scales: Any) -> Any:
    """bias + rows @ matrix, block by block of the matrix's columns, which are rows as they are stored."""
    if (
        not isinstance(matrix, StreamedParameter)
        or not matrix.transposed
        or isinstance(rows, StreamedParameter)
        or scales
    ):
        return NotImplemented
    if isinstance(bias, StreamedParameter):
        bias = bias.read()
    outputs, inputs = matrix.stored.shape
    step = max(1, matrix.reader.block // (4 * inputs))
    parts = []
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        block = matrix.reader.rows(matrix.stored.rows(start, stop)).t()
        parts.append(rows @ block if bias is None else torch.addmm(bias[start:stop], rows, block))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _embedding(table: StreamedParameter, indices: Int[torch.Tensor, ...], *_: Any, **__: Any) -> torch.Tensor:
    """Rows of a table, each read on its own unless that means most of them."""
    width = table.shape[1]
    needed, where = torch.unique(indices, return_inverse=True)
    if 4 * table.numel() <= table.reader.block:
        return table.reader.rows(table.stored)[indices]
    values = torch.empty(needed.numel(), width)
    for row, index in enumerate(needed.tolist()):
        values[row] = table.reader.rows(table.stored.rows(index, index + 1))[0]
    return values[where]


_HANDLERS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.t.default: _transpose,
    torch.ops.aten.transpose.int: _transpose,
    torch.ops.aten.mm.default: _product,
    torch.ops.aten.addmm.default: _add_product,
    torch.ops.aten.embedding.default: _embedding,
}
