"""Canonical -> `ort` dialect, for towers: an Attention without cache becomes MultiHeadAttention.

ONNX Runtime's own operator is older than opset 23, so that older releases load the graph. A mask becomes a bias.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import fixed_size, fold_transpose_pairs, heads_first, rows_first

DOMAIN = "com.microsoft"
MASKED = -1e9
"""Added to what a row must not see: finite, as a softmax over nothing but infinities is no number."""


def lower_to_multi_head_attention(model: ir.Model) -> int:
    """Rewrite in place every Attention of query, key, value and perhaps a boolean mask; returns how many there were."""
    graph = model.graph
    attentions = [node for node in graph if node.op_type == "Attention" and len(node.inputs) <= 4]
    biases: dict[ir.Value, ir.Value] = {}
    for attention in attentions:
        query, key, value = attention.inputs[:3]
        mask = attention.inputs[3] if len(attention.inputs) == 4 else None
        assert query is not None and key is not None and value is not None
        heads, width = fixed_size(query, 1), fixed_size(query, 3)
        if fixed_size(key, 1) != heads or (
            "is_causal" in attention.attributes and attention.attributes["is_causal"].as_int()
        ):
            raise ValueError(f"{attention.name}: only bidirectional attention of as many heads each is lowered")
        tape = Tape()
        if mask is not None and mask not in biases:  # layers share masks, so they share biases
            biases[mask] = _bias(tape, mask)
        attributes: dict[str, float] = {"num_heads": heads}
        if "scale" in attention.attributes:
            attributes["scale"] = attention.attributes["scale"].as_float()
        inputs: list[ir.Value | None] = [rows_first(tape, each, heads * width) for each in (query, key, value)]
        if mask is not None:
            inputs += [None, None, biases[mask]]  # no bias of the projections, no padding mask
        output = tape.op("MultiHeadAttention", inputs, attributes, domain=DOMAIN)
        result = heads_first(tape, output, heads, width)
        graph.insert_before(attention, tape.nodes)
        attention.outputs[0].replace_all_uses_with(result)
        graph.remove(attention, safe=True)
    if attentions:
        graph.opset_imports[DOMAIN] = 1
        fold_transpose_pairs(graph)
        common.RemoveUnusedNodesPass()(model)
    return len(attentions)


def _bias(tape: Tape, mask: ir.Value) -> ir.Value:
    """What the scores are added to: 0 where the mask is true, in fp32."""
    if mask.dtype != ir.DataType.BOOL:
        raise ValueError(f"{mask.name}: only a boolean mask becomes a bias")
    seen, hidden = (tape.op("Constant", [], {"value_float": value}) for value in (0.0, MASKED))
    return tape.op("Where", [mask, seen, hidden])
