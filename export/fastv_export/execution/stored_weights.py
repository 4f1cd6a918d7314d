"""Large weights of a saved graph, or some outputs of one, read by offset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from onnx import NodeProto, TensorProto, helper

from fastv_export.execution.fp4_as_fp8 import widened

WEIGHT = 1 << 20
"""Bytes from which on an initializer counts as large."""


PACKED = "MatMulNBits"
"""The product that takes a weight of few bits as it is stored."""


FP32 = 4
"""Bytes of one of its values once it is dequantized, whatever the type of activations."""


@dataclass(frozen=True)
class Weight:
    """A large initializer, or some outputs of one: `pieces` of equal length, `stride` bytes apart, in the data file."""

    element: int
    """Element type, as ONNX counts them."""
    shape: tuple[int, ...]
    width: int
    """Bytes that one element becomes when it is multiplied."""
    offset: int
    by_output: bool = False
    """Whether the first axis is that of outputs, not the last."""
    stride: int = 0
    pieces: int = 1

    @property
    def nbytes(self) -> int:
        return _stored(self.element, prod(self.shape))

    @property
    def held(self) -> int:
        """Bytes when it is multiplied."""
        return prod(self.shape) * self.width

    @property
    def outputs(self) -> int:
        return self.shape[0 if self.by_output else -1]

    def part(self, start: int, stop: int) -> Weight:
        """Outputs [start, stop) of a whole weight; even numbers where two values share a byte."""
        if self.by_output:
            _, *rest = self.shape
            return replace(
                self, shape=(stop - start, *rest), offset=self.offset + _stored(self.element, start * prod(rest))
            )
        *rest, outputs = self.shape
        return replace(
            self,
            shape=(*rest, stop - start),
            offset=self.offset + _stored(self.element, start),
            stride=_stored(self.element, outputs),
            pieces=prod(rest),
        )

    @property
    def loaded(self) -> int:
        """Element type as ONNX Runtime takes it, which has no E2M1."""
        return TensorProto.FLOAT8E4M3FN if self.element == TensorProto.FLOAT4E2M1 else self.element

    def read(self, file: int, buffer: np.ndarray) -> np.ndarray:
        """The values as ONNX Runtime takes them; `buffer` itself, as large as what is stored, if they are stored so."""
        for index, piece in enumerate(buffer.reshape(self.pieces, -1)):
            if os.preadv(file, [piece.data], self.offset + index * self.stride) != piece.nbytes:
                raise OSError(f"a weight ends before its {self.nbytes} bytes")
        return buffer if self.loaded == self.element else widened(buffer)


def large_weights(nodes: list[NodeProto], initializers: Mapping[str, TensorProto]) -> dict[str, Weight]:
    """Large initializers; of those that are dequantized scales and zero points too, unless the graph holds them."""
    large = {name: tensor for name, tensor in initializers.items() if _size(tensor) >= WEIGHT}
    widths = {name: _itemsize(tensor) for name, tensor in large.items()}
    by_output: set[str] = set()
    stored_scales = {
        node.output[0]: node.input[:2]
        for node in nodes
        if node.op_type == "DequantizeLinear" and node.input[0] in initializers
    }
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in large:
            values, scales, *others = node.input
            of_scales = scales
            if scales in stored_scales:  # they have a scale themselves
                scales, of_scales = stored_scales[scales]
            widths[values] = width = _itemsize(initializers[of_scales])
        elif node.op_type == PACKED and node.input[1] in large:
            values, scales, *others = node.input[1:]
            widths[values], width = FP32 * 8 // integer_attribute(node, "bits"), _itemsize(initializers[scales])
            by_output |= {values, scales, *others}
        else:
            continue
        for name in (scales, *others):
            if initializers[name].external_data and initializers[name].dims:
                widths[name] = width
    return {name: _weight(initializers[name], width, name in by_output) for name, width in widths.items()}


def _external(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _size(tensor: TensorProto) -> int:
    """Bytes in the data file; 0 for what the graph itself holds."""
    return int(_external(tensor)["length"]) if tensor.external_data else 0


def _itemsize(tensor: TensorProto) -> int:
    return helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _stored(element: int, count: int) -> int:
    """Bytes of so many values in a file: four-bit ones share bytes."""
    four = element in (TensorProto.INT4, TensorProto.FLOAT4E2M1)
    return count // 2 if four else count * helper.tensor_dtype_to_np_dtype(element).itemsize


def _weight(tensor: TensorProto, width: int, by_output: bool) -> Weight:
    return Weight(tensor.data_type, tuple(tensor.dims), width, int(_external(tensor).get("offset", 0)), by_output)


def integer_attribute(node: NodeProto, name: str) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == name)
