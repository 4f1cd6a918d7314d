"""Canonical -> `ort` dialect: Attention + TensorScatter become one GroupQueryAttention that appends in place.

ONNX Runtime's GroupQueryAttention knows the causal mask, so the explicit one falls away, and it computes only the
rows of the cache that are filled; Attention-24 works on the whole capacity.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

DOMAIN = "com.microsoft"


def lower_to_group_query_attention(model: ir.Model) -> int:
    """Rewrite every attention in place; returns how many there were.

    Each Attention must read its keys and values from TensorScatters of one write index, and its mask must be the
    one that `fastv_export.attention.visibility` makes; nothing else emits Attention here.
    """
    graph = model.graph
    attentions = [node for node in graph if node.op_type == "Attention"]
    lengths: tuple[ir.Value, ir.Value] | None = None
    for attention in attentions:
        query, key, value = (attention.inputs[i] for i in range(3))
        assert query is not None
        scatter_key, scatter_value = _scatter(key), _scatter(value)
        past_key, new_key, write_index = scatter_key.inputs
        past_value, new_value, _ = scatter_value.inputs
        assert past_key is not None and past_value is not None
        assert new_key is not None and new_value is not None and write_index is not None
        tape = Tape()
        if lengths is None:
            lengths = _lengths(tape, graph.inputs[0], write_index)
            _insert(graph, tape, before=next(iter(graph)))
            tape = Tape()
        heads, kv_heads, width = _size(query, 1), _size(past_key, 1), _size(past_key, 3)
        output, present_key, present_value = tape.op_multi_out(
            "GroupQueryAttention",
            [
                _rows_first(tape, query, heads * width),
                _rows_first(tape, new_key, kv_heads * width),
                _rows_first(tape, new_value, kv_heads * width),
                past_key,
                past_value,
                *lengths,
            ],
            {
                "num_heads": heads,
                "kv_num_heads": kv_heads,
                "scale": attention.attributes["scale"].as_float(),
            },
            domain=DOMAIN,
            num_outputs=3,
        )
        split = tape.op("Reshape", [output, _ints(tape, [0, 0, heads, width])])
        heads_first = tape.op("Transpose", [split], {"perm": [0, 2, 1, 3]})
        heads_first.shape, heads_first.type = attention.outputs[0].shape, attention.outputs[0].type
        _insert(graph, tape, before=attention)
        attention.outputs[0].replace_all_uses_with(heads_first)
        for scatter, present in ((scatter_key, present_key), (scatter_value, present_value)):
            _take_over_output(graph, scatter.outputs[0], present)
        graph.remove(attention, safe=True)
        graph.remove([scatter_key, scatter_value], safe=True)
    if attentions:
        graph.opset_imports[DOMAIN] = 1
        fold_transpose_pairs(graph)
        common.RemoveUnusedNodesPass()(model)
    return len(attentions)


def _size(value: ir.Value, axis: int) -> int:
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise ValueError(f"axis {axis} of {value.name} has no fixed size, which GroupQueryAttention needs")
    return size


def _scatter(value: ir.Value | None) -> ir.Node:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "TensorScatter":
        raise ValueError("an Attention does not read its keys and values from a TensorScatter")
    return node


def _lengths(tape: Tape, hidden: ir.Value, write_index: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(seqlens_k i32[1], total_sequence_length i32 scalar): last filled index, and rows filled, after this call."""
    rows = tape.op("Shape", [hidden], {"start": 1, "end": 2})
    total = tape.op("Add", [write_index, rows])
    last = tape.op("Sub", [total, _ints(tape, [1])])
    seqlens_k = tape.op("Cast", [last], {"to": ir.DataType.INT32})
    scalar = tape.op("Squeeze", [total, _ints(tape, [0])])
    return seqlens_k, tape.op("Cast", [scalar], {"to": ir.DataType.INT32})


def _rows_first(tape: Tape, value: ir.Value, width: int) -> ir.Value:
    """[1, H, S, Dh] -> [1, S, H * Dh]."""
    transposed = tape.op("Transpose", [value], {"perm": [0, 2, 1, 3]})
    return tape.op("Reshape", [transposed, _ints(tape, [0, 0, width])])


def _ints(tape: Tape, values: list[int]) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": values})


def _insert(graph: ir.Graph, tape: Tape, *, before: ir.Node) -> None:
    graph.insert_before(before, tape.nodes)


def _take_over_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let `new` be the graph output that `old` was, with its name, type and shape."""
    new.type, new.shape = old.type, old.shape
    name, old.name = old.name, None
    new.name = name
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new


def fold_transpose_pairs(graph: ir.Graph) -> None:
    """Drop Transpose([0,2,1,3]) of a Transpose([0,2,1,3]): the layers' own, undone by this lowering."""
    for node in list(graph):
        inner = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if inner is None or inner.op_type != "Transpose":
            continue
        if all(list(each.attributes["perm"].as_ints()) == [0, 2, 1, 3] for each in (node, inner)):
            assert inner.inputs[0] is not None
            node.outputs[0].replace_all_uses_with(inner.inputs[0])
            graph.remove(node, safe=True)
