"""The stock model in bounded memory: parameters that are read from the checkpoint each time an operator needs them.

transformers' own forward runs unchanged. Products with large matrices, and tables of embeddings, never see the whole
parameter: blocks of rows pass through one pair of buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch.utils._pytree import tree_map_only

from fastv_export import hf
from fastv_export.checkpoint.checkpoint import STORED_TYPES, Checkpoint, StoredTensor
from fastv_export.checkpoint.skeleton import build_without_weights, stored_parameters
from fastv_export.checkpoint.ties import tie
from fastv_export.families import Family
from fastv_export.hf import models as hf_models
from fastv_export.hf import probe as hf_probe
from fastv_export.quantization.weights import Quantization
from fastv_runtime.config.plan import Precision

BLOCK = 8 << 20
"""Bytes of fp32 weights held at once: what caches hold, so that a block is still there when it is multiplied."""


def stream_model(
    checkpoint: Checkpoint,
    family: Family,
    precision: Precision = "float32",
    read: Callable[[int], None] = lambda count: None,
    rounded: Mapping[str, Quantization] | None = None,
    embedding: Precision = "float32",
    *,
    block: int = BLOCK,
) -> Any:
    """The stock model in fp32 with eager attention, for calls without gradients; no parameter is ever resident.

    precision: of a bundle: weights are rounded to it first, since what it computes from is what it must be compared on.
    read: called with the number of bytes read from the checkpoint since its last call.
    rounded: the rounding of weights in four or eight bits, by their stored names. embedding: precision of the table.
    """
    model, by_name = build_without_weights(checkpoint, family)
    tie(model, by_name)
    stored = stored_parameters(model, by_name, checkpoint)
    reader = _Reader(block, getattr(torch, precision), read)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = StreamedParameter(stored[id(parameter)], reader)
                made.rounding = (rounded or {}).get(made.stored.name)
                module._parameters[name] = made
    # A tied head is the same tensor, but another parameter here: only the table is of the table's precision.
    table = hf.embeddings_of(family.decoder(model)).weight
    table.table, table.factor = getattr(torch, embedding), hf_probe.embedding_factor(family.decoder(model)) or 1.0
    hf_models.attend(model, "eager")
    return model


class StreamedParameter(torch.Tensor):
    """Stands for an fp32 parameter; operators get its values, read for the occasion."""

    stored: StoredTensor
    reader: _Reader
    rounding: Quantization | None = None
    """Of its values in products."""
    table: torch.dtype = torch.float32
    """Precision of its values as rows of a table."""
    factor: float = 1.0
    """What the embedding multiplies them by. The bundle's table has multiples, and those are what is rounded."""

    @staticmethod
    def __new__(cls, stored: StoredTensor, reader: _Reader) -> StreamedParameter:
        self = torch.Tensor._make_wrapper_subclass(cls, stored.shape, dtype=torch.float32, device=torch.device("cpu"))
        self.stored, self.reader = stored, reader
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = _HANDLERS.get(func)
        if handler is not None:
            result = handler(*args, **kwargs)
            if result is not NotImplemented:
                return result
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(cls, cls.read, (args, kwargs or {}))
        return func(*args, **kwargs)

    def read(self) -> torch.Tensor:
        """All values, in memory of their own."""
        raw = self.reader.read(self.stored, np.empty(self.stored.nbytes, np.uint8))
        return raw.float().view(self.stored.shape)

    def as_table(self, rows: Float[torch.Tensor, "... D"]) -> Float[torch.Tensor, "... D"]:
        """Rows as they come out of the bundle's table, before they are multiplied."""
        return (rows * self.factor).to(self.table).float() / self.factor


class _Reader:
    """Two buffers that all blocks pass through: fresh memory costs more than the reading and the arithmetic."""

    def __init__(self, block: int, precision: torch.dtype, read: Callable[[int], None]):
        self.block = block
        self.precision = precision
        self._raw = np.empty(block, np.uint8)
        self._values = torch.empty(block // 4, dtype=torch.float32)
        self._read = read

    def read(self, stored: StoredTensor, buffer: UInt8[np.ndarray, " nbytes"]) -> torch.Tensor:
        """The values in the bundle's precision, flat, through `buffer`."""
        values = self._stored(stored, buffer)
        return values if self.precision is torch.float32 else values.to(self.precision)

    def rows(self, stored: StoredTensor, rounding: Quantization | None = None) -> torch.Tensor:
        """Rows of a matrix that fit the block, as the bundle has them, in fp32; valid until the next call."""
        buffer = self._raw[: stored.nbytes]
        raw = self.read(stored, buffer) if rounding is None else self._stored(stored, buffer)
        values = self._values[: raw.numel()].copy_(raw).view(stored.shape)
        # Few bits are made of what is stored, not of what it is in the precision of activations.
        return values if rounding is None else rounding.rounded(values, self.precision)

    def _stored(self, stored: StoredTensor, buffer: UInt8[np.ndarray, " nbytes"]) -> torch.Tensor:
        stored.read_into(buffer)
        self._read(stored.nbytes)
        return torch.from_numpy(buffer).view(STORED_TYPES[stored.dtype])


def _linear(rows: Float[torch.Tensor, "... I"], matrix: Any, bias: torch.Tensor | None = None) -> Any:
    """torch.nn.functional.linear, block by block of the matrix's rows: [... O], or NotImplemented."""
    if not isinstance(matrix, StreamedParameter) or isinstance(rows, StreamedParameter):
        return NotImplemented
    if isinstance(bias, StreamedParameter):
        bias = bias.read()
    outputs, inputs = matrix.shape
    step = max(1, matrix.reader.block // (4 * inputs))
    parts = []
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        block = matrix.reader.rows(matrix.stored.rows(start, stop), matrix.rounding)
        parts.append(F.linear(rows, block, None if bias is None else bias[start:stop]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _embedding(indices: Int[torch.Tensor, ...], table: Any, *_: Any, **__: Any) -> Any:
    """torch.nn.functional.embedding: [... D], or NotImplemented.

    Each row that is needed is read on its own, unless the table fits a block.
    """
    if not isinstance(table, StreamedParameter):
        return NotImplemented
    if 4 * table.numel() <= table.reader.block:
        return table.as_table(table.reader.rows(table.stored)[indices])
    needed, where = torch.unique(indices, return_inverse=True)
    values = torch.empty(needed.numel(), table.shape[1])
    for row, index in enumerate(needed.tolist()):
        values[row] = table.reader.rows(table.stored.rows(index, index + 1))[0]
    return table.as_table(values[where])


_HANDLERS: dict[Any, Callable[..., Any]] = {F.linear: _linear, F.embedding: _embedding}
