"""Weights of four or eight bits: blocks along the inputs of a product have a scale, values are rounded to nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch
from jaxtyping import Float, Int8

from fastv_export.weights import CheckpointTensor

BLOCK = 4 << 20
"""Bytes of a stored weight that are rounded at once; its temporaries take some eight times as much."""


@dataclass(frozen=True)
class Rounding:
    """Symmetric rounding. `block` consecutive inputs of one output share a scale; None means all of them."""

    bits: Literal[4, 8]
    block: int | None
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

    def quantise(
        self, rows: Float[torch.Tensor, "O I"], dtype: torch.dtype
    ) -> tuple[Int8[torch.Tensor, "O I"], Float[torch.Tensor, "O B"]]:
        """Values, and each block's scale as `dtype`; values are rounded after a division by the scale as stored."""
        scaled = rows.float() if self.inputs is None else rows * self.inputs
        blocks = scaled.reshape(rows.shape[0], -1, self.block or rows.shape[1])
        largest = 2 ** (self.bits - 1) - 1
        # The least scale keeps blocks of zeros, and those that are too small for fp16, from being divided by zero.
        scales = (blocks.abs().amax(-1) / largest).clamp_min(torch.finfo(dtype).tiny).to(dtype)
        values = torch.round(blocks / scales.float()[..., None]).clamp_(-largest - 1, largest)
        return values.to(torch.int8).reshape(rows.shape), scales

    def rounded(self, rows: Float[torch.Tensor, "O I"], dtype: torch.dtype) -> Float[torch.Tensor, "O I"]:
        """What a graph computes with, in fp32, if it neither divides its inputs nor its outputs."""
        values, scales = self.quantise(rows, dtype)
        blocks = values.float().reshape(*scales.shape, -1)
        rounded = blocks.mul_(scales.float()[..., None]).reshape(rows.shape)
        return rounded if self.inputs is None else rounded.div_(self.inputs)

    def scaled(self, inputs: Float[torch.Tensor, " I"]) -> Rounding:
        """The same with a scale of inputs."""
        return replace(self, inputs=inputs)


class RoundedWeight:
    """A weight [inputs, outputs] of the checkpoint, rounded each time it is written."""

    def __init__(self, weight: CheckpointTensor, rounding: Rounding):
        self._weight, self._rounding = weight, rounding
        self._inputs, self._outputs = weight.shape.numpy()

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

    def values(self, name: str) -> ir.LazyTensor:
        """INT4 or INT8 [inputs, outputs]."""
        four = self._rounding.bits == 4
        dtype = ir.DataType.INT4 if four else ir.DataType.INT8
        shape = ir.Shape([self._inputs, self._outputs])

        def read() -> ir.TensorProtocol:
            whole = np.empty((self._inputs, self._outputs // (2 if four else 1)), np.uint8)
            for start, values, _ in self._blocks():
                columns = values.t().contiguous().view(torch.uint8)
                if four:
                    columns = (columns[:, ::2] & 15) | (columns[:, 1::2] << 4)
                    start //= 2
                whole[:, start : start + columns.shape[1]] = columns.numpy()
            if four:
                return ir.PackedTensor(whole.reshape(-1), dtype, shape=shape, name=name)
            return ir.Tensor(whole.view(np.int8), name=name)

        return ir.LazyTensor(read, dtype, shape, name=name)

    def scales(self, name: str) -> ir.LazyTensor:
        """[inputs / block, outputs], or [outputs] without blocks, of the weight's own element type."""
        block = self._rounding.block
        shape = ir.Shape([self._outputs] if block is None else [self._inputs // block, self._outputs])

        def read() -> ir.TensorProtocol:
            whole = torch.empty(shape.numpy(), dtype=self._weight.torch_dtype)
            for start, _, scales in self._blocks():
                if self._rounding.outputs is not None:
                    scales = scales.float() / self._rounding.outputs[start : start + scales.shape[0], None]
                whole[..., start : start + scales.shape[0]] = scales[:, 0] if block is None else scales.t()
            return ir.Tensor(whole.view(torch.uint8).numpy().view(self._weight.dtype.numpy()), name=name)

        return ir.LazyTensor(read, self._weight.dtype, shape, name=name)

    def packed(self, name: str) -> tuple[ir.LazyTensor, ir.LazyTensor]:
        """Values UINT8 [outputs, blocks, bytes of a block] and scales [outputs, blocks]: what MatMulNBits takes.

        Values are counted from their least one; two of four bits share a byte, the lower half first.
        """
        bits, block = self.bits, self.block or self._inputs
        shape = ir.Shape([self._outputs, self._inputs // block, block * bits // 8])
        scales_of = self.scales(f"{name}.scales")

        def read() -> ir.TensorProtocol:
            whole = np.empty((self._outputs, self._inputs * bits // 8), np.uint8)
            for start, values, _ in self._blocks():
                counted = (values.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
                if bits == 4:
                    counted = counted[:, ::2] | (counted[:, 1::2] << 4)
                whole[start : start + counted.shape[0]] = counted.numpy()
            return ir.Tensor(whole.reshape(shape.numpy()), name=f"{name}.int{bits}")

        def read_scales() -> ir.TensorProtocol:
            return ir.Tensor(np.ascontiguousarray(scales_of.numpy().T), name=scales_of.name)

        return (
            ir.LazyTensor(read, ir.DataType.UINT8, shape, name=f"{name}.int{bits}"),
            ir.LazyTensor(read_scales, self._weight.dtype, ir.Shape(shape.numpy()[:2]), name=scales_of.name),
        )

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """(first output, values, scales) of blocks of an even number of outputs."""
        for start, rows in self._weight.rows(BLOCK):
            yield start, *self._rounding.quantise(rows, self._weight.torch_dtype)
