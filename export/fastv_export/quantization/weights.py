"""Weights of four or eight bits: blocks along the inputs of a product have a scale, values are rounded to nearest.

In eight bits a scale is what the largest value of its block asks for; in four it is fitted (`block_scales`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from jaxtyping import Float, Int8

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.quantization.block_scales import Grid, fitted

BLOCK = 4 << 20
"""Bytes of a stored weight that are read at once."""
PIECE = 1 << 18
"""Values that are rounded at once: temporaries take some ten times as much, which caches hold."""


class QuantizedRows(NamedTuple):
    """Rows of a rounded weight: values stand for (value - zero) scale."""

    values: Int8[torch.Tensor, "O I"]
    scales: Float[torch.Tensor, "O B"]
    zeros: Int8[torch.Tensor, "O B"] | None
    """None: 0 everywhere."""

    def dequantized(self) -> Float[torch.Tensor, "O I"]:
        """In fp32."""
        blocks = self.values.float().reshape(*self.scales.shape, -1)
        if self.zeros is not None:
            blocks -= self.zeros.float()[..., None]
        return blocks.mul_(self.scales.float()[..., None]).reshape(self.values.shape)


@dataclass(frozen=True)
class Quantization:
    """`block` consecutive inputs of one output share a scale; None means all of them."""

    bits: Literal[4, 8]
    block: int | None
    zero_points: bool = False
    """Of four bits: blocks have an integer that stands for zero as well."""
    importance: Float[torch.Tensor, " I"] | None = field(default=None, compare=False)
    """Of the square of an error, by the input that it is multiplied by: that input's mean square. None: all alike."""
    inputs: Float[torch.Tensor, " I"] | None = field(default=None, compare=False)
    """What each input's weights are multiplied by before they are rounded; a graph has its inputs divided by it."""
    outputs: Float[torch.Tensor, " O"] | None = field(default=None, compare=False)
    """What a graph wants its outputs divided by: its scales are, and values stay as they are."""

    def fits(self, weight: CheckpointTensor) -> bool:
        """Whether a weight can be rounded: a matrix [inputs, outputs] of whole blocks, and bytes of whole pairs."""
        if len(weight.shape) != 2:
            return False
        return weight.transposed and self.fits_shape(*weight.shape.numpy())

    def fits_shape(self, inputs: int, outputs: int) -> bool:
        return inputs % (self.block or 1) == 0 and (self.bits == 8 or outputs % 2 == 0)

    def quantize(self, rows: Float[torch.Tensor, "O I"], dtype: torch.dtype) -> QuantizedRows:
        """Values, and each block's scale as `dtype`; values are rounded after a division by the scale as stored."""
        values, scales, zeros = zip(*self._pieces(rows, dtype), strict=True)
        return QuantizedRows(torch.cat(values), torch.cat(scales), None if zeros[0] is None else torch.cat(zeros))

    def _pieces(self, rows: Float[torch.Tensor, "O I"], dtype: torch.dtype) -> Iterator[QuantizedRows]:
        for piece in rows.split(max(1, PIECE // rows.shape[1])):
            yield self._quantize(piece, dtype)

    def _quantize(self, rows: Float[torch.Tensor, "O I"], dtype: torch.dtype) -> QuantizedRows:
        scaled = rows.float() if self.inputs is None else rows * self.inputs
        blocks = scaled.reshape(rows.shape[0], -1, self.block or rows.shape[1])
        grid = self._grid(blocks)
        # The least scale keeps blocks of zeros, and those that are too small for fp16, from being divided by zero.
        scales = grid.step.clamp_min(torch.finfo(dtype).tiny).to(dtype)
        if self.bits == 4:
            values = Grid(scales.float(), grid.zero).round(blocks)
        else:
            values = torch.round(blocks / scales.float()[..., None]).clamp_(-128, 127)
        zeros = None if grid.zero is None else grid.zero.to(torch.int8)
        return QuantizedRows(values.to(torch.int8).reshape(rows.shape), scales, zeros)

    def _grid(self, blocks: Float[torch.Tensor, "O B b"]) -> Grid:
        if self.bits == 8:
            return Grid(blocks.abs().amax(-1) / 127, None)
        importance = self.importance
        if importance is not None:
            importance = importance if self.inputs is None else importance / self.inputs.square()
            importance = importance.reshape(blocks.shape[1:])
        return fitted(blocks, importance, zero_points=self.zero_points)

    def rounded(self, rows: Float[torch.Tensor, "O I"], dtype: torch.dtype) -> Float[torch.Tensor, "O I"]:
        """What a graph computes with, in fp32, if it neither divides its inputs nor its outputs."""
        rounded = torch.cat([piece.dequantized() for piece in self._pieces(rows, dtype)])
        return rounded if self.inputs is None else rounded.div_(self.inputs)

    def scaled(self, inputs: Float[torch.Tensor, " I"]) -> Quantization:
        """The same with a scale of inputs."""
        return replace(self, inputs=inputs)


class QuantizedWeight:
    """A weight [inputs, outputs] of the checkpoint, rounded each time it is written."""

    def __init__(self, weight: CheckpointTensor, rounding: Quantization):
        self._weight, self._rounding = weight, rounding
        self._inputs, self._outputs = weight.shape.numpy()
        self._lock = threading.RLock()
        self._beside: tuple[torch.Tensor, torch.Tensor | None] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(inputs, outputs)."""
        return self._inputs, self._outputs

    @property
    def bits(self) -> int:
        return self._rounding.bits

    @property
    def block(self) -> int | None:
        return self._rounding.block

    @property
    def zero_points(self) -> bool:
        return self._rounding.zero_points and self.bits == 4

    def values(self, name: str) -> ir.LazyTensor:
        """INT4 or INT8 [inputs, outputs]."""
        four = self._rounding.bits == 4
        dtype = ir.DataType.INT4 if four else ir.DataType.INT8
        shape = ir.Shape([self._inputs, self._outputs])

        def read() -> ir.TensorProtocol:
            whole = np.empty((self._inputs, self._outputs // (2 if four else 1)), np.uint8)
            for start, values in self._values():
                _put(whole, start, values, four)
            if four:
                return ir.PackedTensor(whole.reshape(-1), dtype, shape=shape, name=name)
            return ir.Tensor(whole.view(np.int8), name=name)

        return ir.LazyTensor(read, dtype, shape, name=name)

    def zeros(self, name: str) -> ir.LazyTensor | None:
        """INT4 [inputs / block, outputs]; None where zero is 0."""
        if not self.zero_points or self.block is None:
            return None
        shape = ir.Shape([self._inputs // self.block, self._outputs])

        def read() -> ir.TensorProtocol:
            whole = np.empty((shape.numpy()[0], self._outputs // 2), np.uint8)
            _put(whole, 0, self._zeros(), four=True)
            return ir.PackedTensor(whole.reshape(-1), ir.DataType.INT4, shape=shape, name=name)

        return ir.LazyTensor(read, ir.DataType.INT4, shape, name=name)

    def scales(self, name: str) -> ir.LazyTensor:
        """[inputs / block, outputs], or [outputs] without blocks, of the weight's own element type."""
        block = self._rounding.block
        shape = ir.Shape([self._outputs] if block is None else [self._inputs // block, self._outputs])

        def read() -> ir.TensorProtocol:
            scales = self._scales()
            if self._rounding.outputs is not None:
                scales = (scales.float() / self._rounding.outputs[:, None]).to(scales.dtype)
            whole = scales[:, 0].contiguous() if block is None else scales.t().contiguous()
            return ir.Tensor(whole.view(torch.uint8).numpy().view(self._weight.dtype.numpy()), name=name)

        return ir.LazyTensor(read, self._weight.dtype, shape, name=name)

    def packed(self, name: str) -> list[ir.LazyTensor]:
        """What MatMulNBits takes: values UINT8 [outputs, blocks, bytes of a block], scales [outputs, blocks], and zero
        points, where there are any, UINT8 [outputs, bytes of a row's].

        Values and zero points are counted from the least value; two of four bits share a byte, the lower half first.
        """
        bits, block = self.bits, self.block or self._inputs
        shape = ir.Shape([self._outputs, self._inputs // block, block * bits // 8])
        scales_of = self.scales(f"{name}.scales")

        def read() -> ir.TensorProtocol:
            whole = np.empty((self._outputs, self._inputs * bits // 8), np.uint8)
            for start, values in self._values():
                whole[start : start + len(values)] = _counted(values, bits).numpy()
            return ir.Tensor(whole.reshape(shape.numpy()), name=f"{name}.int{bits}")

        def read_scales() -> ir.TensorProtocol:
            return ir.Tensor(np.ascontiguousarray(scales_of.numpy().T), name=scales_of.name)

        tensors = [
            ir.LazyTensor(read, ir.DataType.UINT8, shape, name=f"{name}.int{bits}"),
            ir.LazyTensor(read_scales, self._weight.dtype, ir.Shape(shape.numpy()[:2]), name=scales_of.name),
        ]
        if self.zero_points:
            counts = ir.Shape([self._outputs, -(-shape.numpy()[1] // 2)])

            def read_zeros() -> ir.TensorProtocol:
                zeros = self._zeros()
                whole = _counted(torch.nn.functional.pad(zeros, (0, zeros.shape[1] % 2)), bits).numpy()
                return ir.Tensor(whole, name=f"{name}.zeros")

            tensors.append(ir.LazyTensor(read_zeros, ir.DataType.UINT8, counts, name=f"{name}.zeros"))
        return tensors

    def rows(self, name: str) -> list[ir.LazyTensor]:
        """As the weight is stored, [outputs, inputs]: values, scales, and zero points where there are any.

        INT8; or UINT4, counted from the least value, with zero points [outputs, blocks] that say where 0 is. Scales are
        [outputs, blocks], or [outputs] without blocks, of the weight's own element type.
        """
        bits, block = self.bits, self.block or self._inputs
        scales_of = self.scales(f"{name}.scales")
        four = bits == 4

        def read() -> ir.TensorProtocol:
            whole = np.empty((self._outputs, self._inputs * bits // 8), np.uint8)
            for start, values in self._values():
                whole[start : start + len(values)] = (
                    _counted(values, bits).numpy() if four else values.view(torch.uint8)
                )
            return _packed(whole) if four else ir.Tensor(whole.view(np.int8), name=f"{name}.int8")

        def _packed(whole: np.ndarray) -> ir.PackedTensor[np.ndarray]:
            return ir.PackedTensor(whole.reshape(-1), ir.DataType.UINT4, shape=shape, name=f"{name}.int4")

        def read_scales() -> ir.TensorProtocol:
            return ir.Tensor(np.ascontiguousarray(scales_of.numpy().T), name=scales_of.name)

        shape = ir.Shape([self._outputs, self._inputs])
        dtype = ir.DataType.UINT4 if four else ir.DataType.INT8
        blocks = ir.Shape([self._outputs] if self.block is None else [self._outputs, self._inputs // block])
        tensors = [
            ir.LazyTensor(read, dtype, shape, name=f"{name}.int{bits}"),
            ir.LazyTensor(read_scales, self._weight.dtype, blocks, name=scales_of.name),
        ]
        if four:

            def read_zeros() -> ir.TensorProtocol:
                zeros = self._zeros() if self.zero_points else torch.zeros(blocks.numpy(), dtype=torch.int8)
                whole = _counted(zeros.reshape(1, -1), bits).numpy()
                return ir.PackedTensor(whole.reshape(-1), ir.DataType.UINT4, shape=blocks, name=f"{name}.zeros")

            tensors.append(ir.LazyTensor(read_zeros, ir.DataType.UINT4, blocks, name=f"{name}.zeros"))
        return tensors

    def _values(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(first output, values) of blocks of an even number of outputs; what is beside them is kept until it is read.

        A file has a weight's values, then its scales and zero points: so each weight is rounded once.
        """
        with self._lock:
            scales, zeros = [], []
            for start, rows in self._weight.rows(BLOCK):
                made = self._rounding.quantize(rows, self._weight.torch_dtype)
                scales.append(made.scales)
                zeros.append(made.zeros)
                yield start, made.values
            self._beside = torch.cat(scales), None if zeros[0] is None else torch.cat(zeros)  # type: ignore[arg-type]

    def _scales(self) -> torch.Tensor:
        with self._lock:  # a thread of its own may ask for the zero points meanwhile
            scales, zeros = self._read_beside()
            self._beside = None if zeros is None else (scales, zeros)
        return scales

    def _zeros(self) -> torch.Tensor:
        with self._lock:
            _, zeros = self._read_beside()
            self._beside = None
        assert zeros is not None
        return zeros

    def _read_beside(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._beside is None:
            for _ in self._values():
                pass
        assert self._beside is not None
        return self._beside


def _put(whole: np.ndarray, start: int, rows: Int8[torch.Tensor, "O I"], four: bool) -> None:
    """Rows as columns of `whole`, from `start` on; two of four bits in a byte."""
    columns = rows.t().contiguous().view(torch.uint8)
    if four:
        columns = (columns[:, ::2] & 15) | (columns[:, 1::2] << 4)
        start //= 2
    whole[:, start : start + columns.shape[1]] = columns.numpy()


def _counted(rows: Int8[torch.Tensor, "O I"], bits: int) -> torch.Tensor:
    counted: torch.Tensor = (rows.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
    return counted[:, ::2] | (counted[:, 1::2] << 4) if bits == 4 else counted
