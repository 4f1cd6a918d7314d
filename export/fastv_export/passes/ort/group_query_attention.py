"""Canonical -> `ort` dialect: Attention + TensorScatter become one GroupQueryAttention that appends in place.

ONNX Runtime's GroupQueryAttention knows the causal mask, so the explicit one falls away, and it computes only the
rows of the cache that are filled; Attention-24 works on the whole capacity.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import fixed_size, fold_transpose_pairs, heads_first, ints, rows_first
from fastv_export.passes.common.take_over import take_over

DOMAIN = "com.microsoft"


def lower_to_group_query_attention(model: ir.Model) -> int:
    """Rewrite every attention over a cache in place; returns how many there were. A tower's has none, and stays.

    Each must read its keys and values from TensorScatters of one write index, and its mask must be the
    one that `fastv_export.tracing.attention.visibility` makes; nothing else emits TensorScatter here.
    """
    graph = model.graph
    attentions = [node for node in graph if node.op_type == "Attention" and _has_cache(node)]
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
            graph.insert_before(next(iter(graph)), tape.nodes)
            tape = Tape()
        heads, kv_heads, width = fixed_size(query, 1), fixed_size(past_key, 1), fixed_size(past_key, 3)
        output, present_key, present_value = tape.op_multi_out(
            "GroupQueryAttention",
            [
                rows_first(tape, query, heads * width),
                rows_first(tape, new_key, kv_heads * width),
                rows_first(tape, new_value, kv_heads * width),
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
        result = heads_first(tape, output, heads, width)
        graph.insert_before(attention, tape.nodes)
        attention.outputs[0].replace_all_uses_with(result)
        for scatter, present in ((scatter_key, present_key), (scatter_value, present_value)):
            take_over(scatter.outputs[0], present)
        graph.remove(attention, safe=True)
        graph.remove([scatter_key, scatter_value], safe=True)
    if attentions:
        graph.opset_imports[DOMAIN] = 1
        fold_transpose_pairs(graph)
        common.RemoveUnusedNodesPass()(model)
    return len(attentions)


def _has_cache(attention: ir.Node) -> bool:
    key = attention.inputs[1]
    producer = None if key is None else key.producer()
    return producer is not None and producer.op_type == "TensorScatter"


def _scatter(value: ir.Value | None) -> ir.Node:
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "TensorScatter":
        raise ValueError("an Attention does not read its keys and values from a TensorScatter")
    return node


def _lengths(tape: Tape, hidden: ir.Value, write_index: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(seqlens_k i32[1], total_sequence_length i32 scalar): last filled index, and rows filled, after this call."""
    rows = tape.op("Shape", [hidden], {"start": 1, "end": 2})
    total = tape.op("Add", [write_index, rows])
    last = tape.op("Sub", [total, ints(tape, [1])])
    seqlens_k = tape.op("Cast", [last], {"to": ir.DataType.INT32})
    scalar = tape.op("Squeeze", [total, ints(tape, [0])])
    return seqlens_k, tape.op("Cast", [scalar], {"to": ir.DataType.INT32})
