"""Heads that are split and joined again, with nothing in between, stay joined.

Layers split rows [1, S, H * Dh] into heads, and ONNX Runtime's operators take rows: each lowering joins what the next
one splits. A Reshape moves nothing, yet it is a call, and a decoded token has thousands of those.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def fold_row_reshapes(model: ir.Model) -> int:
    """Drop chains of Reshape that end in the rows that they began with, in place; returns how many there were."""
    graph = model.graph
    folded = 0
    for node in list(graph):
        if node.op_type != "Reshape" or node.outputs[0].is_graph_output():
            continue
        origin = node.inputs[0]
        while (inner := _reshape(origin)) is not None:
            origin = inner.inputs[0]
        width = _joined_width(node)
        if origin is node.inputs[0] or width is None or width != _split_width(node, origin):
            continue
        assert origin is not None
        node.outputs[0].replace_all_uses_with(origin)
        folded += 1
    common.RemoveUnusedNodesPass()(model)
    return folded


def _joined_width(node: ir.Node) -> int | None:
    """W where a Reshape makes [1, S, W], by its shape input or by what is known of its output."""
    target = _constant(node.inputs[1])
    return target[2] if target is not None and len(target) == 3 and target[:2] == [0, 0] else _width(node.outputs[0])


def _split_width(node: ir.Node, origin: ir.Value | None) -> int | None:
    """W of rows [1, S, W] that a chain of Reshape begins with; of heads as well, if its first makes [1, S, H, Dh]."""
    if (known := _width(origin)) is not None:
        return known
    first = node
    while first.inputs[0] is not origin:
        inner = _reshape(first.inputs[0])
        assert inner is not None
        first = inner
    heads = _constant(first.inputs[1])
    return heads[2] * heads[3] if heads is not None and len(heads) == 4 and heads[:2] == [0, 0] else None


def _reshape(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "Reshape" else None


def _width(value: ir.Value | None) -> int | None:
    shape = None if value is None else value.shape
    if shape is None or len(shape) != 3 or shape[0] != 1:
        return None
    return shape[2] if isinstance(shape[2], int) else None


def _constant(value: ir.Value | None) -> list[int] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy().reshape(-1).tolist()
