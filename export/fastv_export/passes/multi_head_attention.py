"""Canonical -> `ort` dialect, for towers: an Attention without mask and cache becomes MultiHeadAttention.

ONNX Runtime's own operator is older than opset 23, so that older releases load the graph.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.heads import fixed_size, fold_transpose_pairs, heads_first, rows_first

DOMAIN = "com.microsoft"


def lower_to_multi_head_attention(model: ir.Model) -> int:
    """Rewrite in place every Attention that has only query, key and value; returns how many there were."""
    graph = model.graph
    attentions = [node for node in graph if node.op_type == "Attention" and len(node.inputs) == 3]
    for attention in attentions:
        query, key, value = attention.inputs
        assert query is not None and key is not None and value is not None
        heads, width = fixed_size(query, 1), fixed_size(query, 3)
        if fixed_size(key, 1) != heads or (
            "is_causal" in attention.attributes and attention.attributes["is_causal"].as_int()
        ):
            raise ValueError(f"{attention.name}: only plain bidirectional attention becomes MultiHeadAttention")
        tape = Tape()
        attributes: dict[str, float] = {"num_heads": heads}
        if "scale" in attention.attributes:
            attributes["scale"] = attention.attributes["scale"].as_float()
        output = tape.op(
            "MultiHeadAttention",
            [rows_first(tape, each, heads * width) for each in (query, key, value)],
            attributes,
            domain=DOMAIN,
        )
        result = heads_first(tape, output, heads, width)
        graph.insert_before(attention, tape.nodes)
        attention.outputs[0].replace_all_uses_with(result)
        graph.remove(attention, safe=True)
    if attentions:
        graph.opset_imports[DOMAIN] = 1
        fold_transpose_pairs(graph)
        common.RemoveUnusedNodesPass()(model)
    return len(attentions)
