"""What follows the last attention of a graph with a head is computed for the last row alone: no other is read.

The last layer's queries, keys and values need all rows, its output projection and MLP do not: nearly a whole layer of
a prefill. transformers computes them, and drops them before the head.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import ints, number

ROW_BY_ROW = {
    *("Add", "Sub", "Mul", "Div", "Neg", "Pow", "Sqrt", "Reciprocal", "ReduceMean", "Cast"),
    *("Sigmoid", "Tanh", "Erf", "Gelu", "MatMul"),
}
"""Operators that, on [1, S, D], make each row of that row. A product is one by a weight; means here are over D."""


def keep_last_row(model: ir.Model) -> int:
    """Take the last row as early as nothing else needs the others, in place; returns how many nodes lost the others."""
    graph = model.graph
    last = next((node for node in reversed(list(graph)) if _takes_last_row(node)), None)
    if last is None:
        return 0
    narrow = {last}
    for node in reversed(list(graph)):
        users = [user for output in node.outputs for user, _ in output.uses()]
        if users and narrow.issuperset(users) and _is_row_by_row(node):
            narrow.add(node)
    taken: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node not in narrow or node is last:
            continue
        for index, value in enumerate(node.inputs):
            if value is None or not _has_rows(value) or value.producer() in narrow:
                continue
            if value not in taken:
                tape = Tape()
                taken[value] = tape.op("Slice", [value, *(ints(tape, [number]) for number in (-1, 2**63 - 1, 1))])
                taken[value].type, taken[value].shape = value.type, _one_row(value)
                graph.insert_before(node, tape.nodes)
            node.replace_input_with(index, taken[value])
    if not taken:
        return 0
    for node in narrow:
        node.outputs[0].shape = _one_row(node.outputs[0])
    kept = last.inputs[0]
    assert kept is not None
    last.outputs[0].replace_all_uses_with(kept)
    graph.remove(last, safe=True)
    return len(narrow) - 1


def _takes_last_row(node: ir.Node) -> bool:
    """Slice(data, -1, end, axis 1) of rows."""
    if node.op_type != "Slice" or not _has_rows(node.inputs[0]):
        return False
    return [number(node.inputs[index]) for index in (1, 3)] == [-1, 1]


def _is_row_by_row(node: ir.Node) -> bool:
    if node.op_type not in ROW_BY_ROW or len(node.outputs) != 1 or not _has_rows(node.outputs[0]):
        return False
    weight = node.inputs[1] if node.op_type == "MatMul" else None
    return node.op_type != "MatMul" or (weight is not None and weight.is_initializer())


def _has_rows(value: ir.Value | None) -> bool:
    """Whether a value is [1, S, D] with S open."""
    shape = None if value is None else value.shape
    return shape is not None and len(shape) == 3 and not isinstance(shape[1], int)


def _one_row(value: ir.Value) -> ir.Shape:
    assert value.shape is not None
    first, _, *rest = value.shape
    return ir.Shape([first, 1, *rest])
