"""Stored weights -> `openvino` dialect: a layer's queries, keys and values are one product, and split behind it.

A decoded token pays for every call of a product, beside its weights. Gate and up of an MLP stay two: OpenVINO has one
operator for an MLP, which it would not find any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.constants import register
from fastv_export.passes.common.take_over import take_over
from fastv_runtime.memory.bindings import is_of_caches


def join_projections(model: ir.Model) -> int:
    """Rewrite in place what `lower_to_stored_weights` has made, in a graph with caches; returns how many products went.

    Joined are linear layers of the same rows whose outputs are divided into heads, if their weights are rounded alike.
    """
    graph = model.graph
    if not any(is_of_caches(str(each.name)) for each in graph.outputs):
        return 0  # a tower, which has many rows at any time
    alike: dict[Any, list[_Projection]] = defaultdict(list)
    for node in graph:
        projection = _Projection.of(node)
        if projection is not None:
            alike[projection.kind].append(projection)
    groups = [each for each in alike.values() if len(each) > 1]
    for group in groups:
        _join(graph, group)
    if groups:
        common.RemoveUnusedNodesPass()(model)  # and initializers
    return sum(len(group) - 1 for group in groups)


@dataclass(frozen=True)
class _Projection:
    """product: MatMul(rows, Transpose(weight)). constants: of the weight, outputs first. end: with the bias, if any."""

    product: ir.Node
    constants: list[ir.Value]
    bias: ir.Value | None
    end: ir.Value
    kind: tuple[Any, ...]
    """What those have in common that may be joined."""

    @classmethod
    def of(cls, node: ir.Node) -> _Projection | None:
        """None for any other node."""
        turn = node.inputs[1].producer() if node.op_type == "MatMul" and node.inputs[1] is not None else None
        if turn is None or turn.op_type != "Transpose" or turn.inputs[0] is None:
            return None
        rounding = turn.inputs[0].producer()
        constants = [turn.inputs[0]] if rounding is None else [each for each in rounding.inputs if each is not None]
        if any(each.const_value is None for each in constants):
            return None
        end, bias = node.outputs[0], None
        users = end.consumers()
        if len(users) == 1 and users[0].op_type == "Add":
            outputs = tuple(constants[0].const_value.shape.numpy()[:1])  # type: ignore[union-attr]
            bias = next((each for each in users[0].inputs if _is_vector(each, outputs)), None)
            end = end if bias is None else users[0].outputs[0]
        if end.is_graph_output() or any(each.op_type != "Reshape" for each in end.consumers()):
            return None
        types = tuple(each.dtype for each in constants)
        return cls(node, constants, bias, end, (node.inputs[0], bias is None, types, *_axes(rounding).items()))


class JoinedTensor(ir.LazyTensor):
    """Tensors one after another along their first axis, each read when it is written.

    lock: of all that are made of the same weights. Scales of a rounded weight are there once its values are written;
    a thread that asks for those of the next part before would round it once more.
    """

    def __init__(self, name: str, parts: Sequence[ir.TensorProtocol], lock: AbstractContextManager[Any]):
        rows = sum(each.shape.numpy()[0] for each in parts)
        super().__init__(self._whole, parts[0].dtype, ir.Shape([rows, *parts[0].shape.numpy()[1:]]), name=name)
        self._parts, self._lock = parts, lock

    def tofile(self, file: Any) -> None:
        with self._lock:
            for each in self._parts:
                if isinstance(each, ir.LazyTensor):
                    each.tofile(file)
                else:
                    file.write(each.tobytes())

    def _whole(self) -> ir.TensorProtocol:
        with self._lock:
            whole = np.concatenate([each.numpy() for each in self._parts])
        return ir.Tensor(whole, dtype=self.dtype, name=self.name)


def _join(graph: ir.Graph, group: Sequence[_Projection]) -> None:
    """One product of all, before the first of them."""
    tape, first, lock = Tape(), group[0], RLock()
    constants = [_joined(graph, each, lock) for each in zip(*(each.constants for each in group), strict=True)]
    turn = first.product.inputs[1].producer()  # type: ignore[union-attr]
    assert turn is not None and turn.inputs[0] is not None
    rounding = turn.inputs[0].producer()
    weight = constants[0]
    if rounding is not None:
        weight = tape.op("DequantizeLinear", constants, _axes(rounding))
    joined = tape.op("MatMul", [first.product.inputs[0], tape.op("Transpose", [weight], {"perm": [1, 0]})])
    if first.bias is not None:
        joined = tape.op("Add", [joined, _joined(graph, [each.bias for each in group if each.bias is not None], lock)])
    widths = [int(each.constants[0].const_value.shape.numpy()[0]) for each in group]  # type: ignore[union-attr]
    sizes = register(graph, ir.Tensor(np.array(widths, np.int64), name=f"{constants[0].name}.widths"))
    parts = tape.op_multi_out("Split", [joined, sizes], {"axis": -1}, num_outputs=len(group))
    graph.insert_before(first.product, tape.nodes)
    for each, part in zip(group, parts, strict=True):
        take_over(each.end, part)


def _is_vector(value: ir.Value | None, shape: tuple[int, ...]) -> bool:
    return value is not None and value.const_value is not None and value.const_value.shape.numpy() == shape


def _axes(rounding: ir.Node | None) -> dict[str, int]:
    """Of a DequantizeLinear, along which axis weights share a scale, and how many."""
    attributes = {} if rounding is None else rounding.attributes
    return {name: attributes[name].as_int() for name in ("axis", "block_size") if name in attributes}


def _joined(graph: ir.Graph, values: Sequence[ir.Value], lock: AbstractContextManager[Any]) -> ir.Value:
    tensors = [each.const_value for each in values if each.const_value is not None]
    return register(graph, JoinedTensor("+".join(str(each.name) for each in values), tensors, lock))
