"""A saved graph cut into chunks of nodes whose weights are small, so that it can be executed without loading it whole.

Large weights become inputs of their chunk: read by offset when the chunk runs, into memory that the next chunk reuses.
Those of few bits are dequantized by their chunk, so that they count as what they become.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from fastv_export.execution.fp4_as_fp8 import widened
from fastv_export.execution.fp4_function import OPERATOR, fp4_dynamic_quantize
from fastv_export.execution.stored_weights import PACKED, Weight, integer_attribute, large_weights

IN_BYTES = 4
"""Its accuracy_level at which activations are rounded to eight bits."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive nodes of a graph."""

    nodes: tuple[NodeProto, ...]
    weights: dict[str, Weight]
    constants: tuple[TensorProto, ...]
    """Small initializers, their values inside."""
    inputs: tuple[str, ...]
    """Values that come from outside: inputs of the graph and results of earlier chunks."""
    outputs: tuple[str, ...]
    """Values that go outside: outputs of the graph and what later chunks need."""
    spent: tuple[str, ...]
    """Inputs that no later chunk needs."""

    def portions(self, limit: int) -> Iterator[dict[str, Weight]]:
        """The weights; those of a single product above the limit come some outputs at a time, as it can be computed."""
        held = max((weight.held for weight in self.weights.values()), default=0)
        if held <= limit or not _is_product(self.nodes) or not self._divisible():
            yield self.weights
            return
        outputs = next(iter(self.weights.values())).outputs
        # Parts of one size: a smaller last one would make ONNX Runtime's arena grow by blocks that nothing else fits.
        step = -(-outputs // -(-held // limit))
        step += step % 2
        for start in range(0, outputs, step):
            stop = min(start + step, outputs)
            yield {name: weight.part(start, stop) for name, weight in self.weights.items()}

    def _divisible(self) -> bool:
        """Whether all that belongs to the weight of a single product can be read by columns."""
        *dequantize, product = self.nodes
        made = {name for node in dequantize for name in node.output}
        single = {tensor.name for tensor in self.constants if not tensor.dims}
        needed = [name for node in dequantize for name in node.input] if dequantize else product.input[1:]
        return all(name in self.weights or name in made or name in single for name in needed)

    def rounding(self) -> set[str]:
        """Weights of products that round their activations, which ONNX Runtime does beside constant weights alone."""
        return {
            name
            for node in self.nodes
            if node.op_type == PACKED and integer_attribute(node, "accuracy_level") == IN_BYTES
            for name in node.input[1:]
        }

    def model(
        self,
        arrays: Mapping[str, np.ndarray],
        weights: Mapping[str, Weight],
        constants: Mapping[str, np.ndarray],
        opsets: Any,
        ir_version: int,
    ) -> bytes:
        """The chunk as a model.

        arrays: its inputs, whose element types it takes. weights: a portion of them. constants: stored bytes of those
        that are no inputs of it.
        """
        elements: dict[str, int] = {name: helper.np_dtype_to_tensor_dtype(arrays[name].dtype) for name in self.inputs}
        elements |= {name: weight.loaded for name, weight in weights.items() if name not in constants}
        inside = [
            helper.make_tensor(name, weights[name].loaded, weights[name].shape, raw.tobytes(), raw=True)
            for name, raw in constants.items()
        ]
        inputs = [helper.make_tensor_value_info(name, element, None) for name, element in elements.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        nodes = [_of_portion(node, weights) for node in self.nodes]
        graph = helper.make_graph(nodes, "chunk", inputs, outputs, [*self.constants, *inside])
        functions = [fp4_dynamic_quantize()] if any(node.op_type == OPERATOR for node in nodes) else []
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)
        return bytes(model.SerializeToString())


def cut(model: onnx.ModelProto, folder: Path, limit: int) -> Iterator[Chunk]:
    """Chunks of a saved model in the order in which they run; large weights of each take `limit` bytes at most.

    model: loaded without external data, which lies in `folder`. A weight above the limit gets a chunk of its own.
    """
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    weights = large_weights(list(graph.node), initializers)
    runs = _runs(_units(list(graph.node), weights), weights, limit)
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


def _units(nodes: list[NodeProto], weights: Mapping[str, Weight]) -> list[list[NodeProto]]:
    """What is never cut: a product stays with the nodes that dequantize its weight."""
    units: list[list[NodeProto]] = []
    for node in nodes:
        if units and _follows(units[-1], node) and units[-1][0].input[0] in weights:
            units[-1].append(node)
        else:
            units.append([node])
    return units


def _is_product(nodes: Sequence[NodeProto]) -> bool:
    """Whether nodes are one product with a weight, as stored or dequantized."""
    return nodes[-1].op_type in ("MatMul", PACKED) and all(
        _follows(nodes[:at], node) for at, node in enumerate(nodes) if at
    )


def _follows(before: Sequence[NodeProto], node: NodeProto) -> bool:
    """Whether a node takes the weight, or its blocks' scales, that the ones before dequantize."""
    return (
        all(each.op_type == "DequantizeLinear" for each in before)
        and node.op_type in ("MatMul", PACKED, "DequantizeLinear")
        and before[-1].output[0] == node.input[1]
    )


def _runs(units: list[list[NodeProto]], weights: Mapping[str, Weight], limit: int) -> list[list[NodeProto]]:
    runs: list[list[NodeProto]] = [[]]
    held: set[str] = set()

    def size(names: set[str]) -> int:
        return sum(weights[name].held for name in names)

    for unit in units:
        needed = {name for node in unit for name in node.input if name in weights}
        # The second: what follows a weight above the limit, so that it stays alone.
        if runs[-1] and (size(held | needed) > limit if needed else size(held) > limit):
            runs.append([])
            held = set()
        runs[-1].extend(unit)
        held |= needed
    return runs


def _of_portion(node: NodeProto, weights: Mapping[str, Weight]) -> NodeProto:
    """A node with some of its outputs: MatMulNBits says how many it has."""
    if node.op_type != PACKED or node.input[1] not in weights:
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    next(attribute for attribute in copy.attribute if attribute.name == "N").i = weights[node.input[1]].outputs
    return copy


def _inlined(tensor: TensorProto, folder: Path) -> TensorProto:
    """The initializer with its values inside, as a model in memory needs them."""
    if not tensor.external_data:
        return tensor
    copy = TensorProto()
    copy.CopyFrom(tensor)
    onnx.external_data_helper.load_external_data_for_tensor(copy, str(folder))
    copy.data_location = TensorProto.DEFAULT
    del copy.external_data[:]
    if copy.data_type == TensorProto.FLOAT4E2M1:
        copy.data_type = TensorProto.FLOAT8E4M3FN
        copy.raw_data = widened(np.frombuffer(copy.raw_data, np.uint8)).tobytes()
    return copy
