"""A saved graph cut into chunks of nodes whose weights are small, so that it can be executed without loading it whole.

Large weights become inputs of their chunk: read by offset when the chunk runs, into memory that the next chunk reuses.
Those of four or eight bits stay constants, as ONNX Runtime fuses their products only then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

WEIGHT = 1 << 20
"""Bytes from which on an initializer counts as large."""

FEW_BITS = (TensorProto.INT4, TensorProto.INT8)
COPIES = 4
"""Times that ONNX Runtime holds a constant of few bits while it loads a chunk: as read, serialised, parsed, packed."""


@dataclass(frozen=True)
class Weight:
    """A large initializer, or some columns of one: `pieces` of equal length, `stride` bytes apart, in the data file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    stride: int = 0
    pieces: int = 1

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def columns(self, start: int, stop: int) -> Weight:
        """Columns [start, stop) of a matrix."""
        rows, columns = self.shape
        width = self.dtype.itemsize
        return replace(
            self, shape=(rows, stop - start), offset=self.offset + start * width, stride=columns * width, pieces=rows
        )

    def read(self, file: int, buffer: np.ndarray) -> np.ndarray:
        """The values, in `buffer`: bytes, as many as there are."""
        for index, piece in enumerate(buffer.reshape(self.pieces, -1)):
            if os.preadv(file, [piece.data], self.offset + index * self.stride) != piece.nbytes:
                raise OSError(f"a weight ends before its {self.nbytes} bytes")
        return buffer.view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Chunk:
    """Some consecutive nodes of a graph."""

    nodes: tuple[NodeProto, ...]
    weights: dict[str, Weight]
    constants: tuple[TensorProto, ...]
    """Small initializers, and those of few bits, their values inside."""
    inputs: tuple[str, ...]
    """Values that come from outside: inputs of the graph and results of earlier chunks."""
    outputs: tuple[str, ...]
    """Values that go outside: outputs of the graph and what later chunks need."""
    spent: tuple[str, ...]
    """Inputs that no later chunk needs."""

    def wide(self, limit: int) -> str | None:
        """The weight that alone exceeds the limit, if its product can be computed column by column."""
        node = self.nodes[0]
        name = node.input[1] if len(self.nodes) == 1 and node.op_type == "MatMul" else None
        wide = name in self.weights and self.weights[name].nbytes > limit and len(self.weights[name].shape) == 2
        return name if wide else None

    def model(self, arrays: Mapping[str, np.ndarray], opsets: Any, ir_version: int) -> bytes:
        """The chunk as a model; `arrays`: its inputs and weights, whose element types it takes."""
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(arrays[name].dtype), None)
            for name in (*self.inputs, *self.weights)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        graph = helper.make_graph(list(self.nodes), "chunk", inputs, outputs, list(self.constants))
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()


def cut(model: onnx.ModelProto, folder: Path, limit: int) -> Iterator[Chunk]:
    """Chunks of a saved model in the order in which they run; large weights of each take `limit` bytes at most.

    model: loaded without external data, which lies in `folder`. A weight above the limit gets a chunk of its own.
    """
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    sizes = {
        name: size * (COPIES if tensor.data_type in FEW_BITS else 1)
        for name, tensor in initializers.items()
        if (size := _size(tensor)) >= WEIGHT
    }
    weights = {name: _weight(initializers[name]) for name in sizes if initializers[name].data_type not in FEW_BITS}
    runs = _runs(list(graph.node), sizes, limit)
    last_use = {name: number for number, nodes in enumerate(runs) for node in nodes for name in node.input}
    last_use |= {output.name: len(runs) for output in graph.output}
    for number, nodes in enumerate(runs):
        made = [name for node in nodes for name in node.output if name]
        used = dict.fromkeys(name for node in nodes for name in node.input if name)
        constants = [initializers[name] for name in used if name in initializers and name not in weights]
        inputs = tuple(name for name in used if name not in initializers and name not in made)
        yield Chunk(
            nodes=tuple(nodes),
            weights={name: weights[name] for name in used if name in weights},
            constants=tuple(_inlined(tensor, folder) for tensor in constants),
            inputs=inputs,
            spent=tuple(name for name in inputs if last_use[name] == number),
            outputs=tuple(name for name in made if last_use.get(name, -1) > number),
        )


def _runs(nodes: list[NodeProto], sizes: dict[str, int], limit: int) -> list[list[NodeProto]]:
    runs: list[list[NodeProto]] = [[]]
    held: set[str] = set()
    for node in nodes:
        needed = {name for name in node.input if name in sizes}
        if runs[-1] and needed and sum(sizes[name] for name in held | needed) > limit:
            runs.append([])
            held = set()
        elif runs[-1] and not needed and sum(sizes[name] for name in held) > limit:
            runs.append([])  # what follows a weight above the limit, so that it stays alone
            held = set()
        runs[-1].append(node)
        held |= needed
    return runs


def _external(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _dtype(tensor: TensorProto) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(tensor.data_type)


def _size(tensor: TensorProto) -> int:
    """Bytes in the data file; 0 for what the graph itself holds."""
    return int(_external(tensor)["length"]) if tensor.external_data else 0


def _weight(tensor: TensorProto) -> Weight:
    return Weight(_dtype(tensor), tuple(tensor.dims), int(_external(tensor).get("offset", 0)))


def _inlined(tensor: TensorProto, folder: Path) -> TensorProto:
    """The initializer with its values inside, as a model in memory needs them."""
    if not tensor.external_data:
        return tensor
    copy = TensorProto()
    copy.CopyFrom(tensor)
    onnx.external_data_helper.load_external_data_for_tensor(copy, str(folder))
    copy.data_location = TensorProto.DEFAULT
    del copy.external_data[:]
    return copy
