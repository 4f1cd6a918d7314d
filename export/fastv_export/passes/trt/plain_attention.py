"""Canonical -> `trt-legacy` dialect: an Attention becomes MatMul, Softmax, MatMul, as before there was an operator."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import fixed_size, ints
from fastv_export.passes.common.take_over import take_over

MASKED = -1e9
"""Attention logit of what a row must not see: finite, as a softmax over nothing but infinities is no number."""


def lower_to_plain_attention(model: ir.Model) -> int:
    """Rewrite in place every Attention of query, key, value and perhaps a boolean mask; returns how many there were.

    Queries are scaled before the product, so that it stays within half precision, and logits are masked and their
    softmax is computed in fp32. Heads that share a key are rows of one product: keys are read where they lie, never
    repeated. That is the form in which TensorRT can fuse them to one kernel
    (docs.nvidia.com/deeplearning/tensorrt, "Fused Attention", primitive layers).
    """
    graph = model.graph
    attentions = [node for node in graph if node.op_type == "Attention"]
    masks: dict[tuple[ir.Value, int], ir.Value] = {}
    for attention in attentions:
        _check_is_plain(attention)
        query, key, value, *rest = attention.inputs
        assert query is not None and key is not None and value is not None and query.dtype is not None
        heads, kv_heads, width = fixed_size(query, 1), fixed_size(key, 1), fixed_size(query, 3)
        group = heads // kv_heads
        scale = attention.attributes["scale"].as_float() if "scale" in attention.attributes else 1 / math.sqrt(width)
        tape = Tape()
        rows = tape.op("Mul", [query, _scalar(tape, scale, query.dtype)])
        if group > 1:
            rows = tape.op("Reshape", [rows, ints(tape, [0, kv_heads, -1, width])])
        logits = tape.op("MatMul", [rows, tape.op("Transpose", [key], {"perm": [0, 1, 3, 2]})])
        logits = _cast(tape, logits, query.dtype, ir.DataType.FLOAT)
        mask = rest[0] if rest else None
        if mask is not None:
            if (mask, group) not in masks:  # layers share masks
                masks[mask, group] = _repeated_rows(tape, mask, group)
            logits = tape.op("Where", [masks[mask, group], logits, _scalar(tape, MASKED, ir.DataType.FLOAT)])
        weights = _cast(tape, tape.op("Softmax", [logits], {"axis": -1}), ir.DataType.FLOAT, query.dtype)
        output = tape.op("MatMul", [weights, value])
        if group > 1:
            output = tape.op("Reshape", [output, ints(tape, [0, heads, -1, fixed_size(value, 3)])])
        graph.insert_before(attention, tape.nodes)
        take_over(attention.outputs[0], output)
        graph.remove(attention, safe=True)
    common.RemoveUnusedNodesPass()(model)
    return len(attentions)


def _check_is_plain(attention: ir.Node) -> None:
    """ValueError for an Attention that does more than scale, mask and softmax."""
    extra = [name for name, each in attention.attributes.items() if name != "scale" and each.value]
    mask = attention.inputs[3] if len(attention.inputs) > 3 else None
    if extra or len(attention.inputs) > 4 or (mask is not None and mask.dtype != ir.DataType.BOOL):
        raise ValueError(
            f"{attention.name}: only attention of query, key, value and a boolean mask is lowered, "
            f"not {', '.join(extra) or 'its other inputs'}"
        )


def _repeated_rows(tape: Tape, mask: ir.Value, group: int) -> ir.Value:
    """[B, 1, S, C] -> [B, 1, group * S, C]: rows of the heads that share a key follow each other."""
    if group == 1:
        return mask
    if fixed_size(mask, 1) != 1:
        raise ValueError(f"{mask.name}: only a mask that all heads share is repeated")
    return tape.op("Tile", [mask, ints(tape, [1, 1, group, 1])])


def _scalar(tape: Tape, value: float, dtype: ir.DataType) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(np.asarray(value, dtype.numpy()))})


def _cast(tape: Tape, value: ir.Value, source: ir.DataType, target: ir.DataType) -> ir.Value:
    return value if source == target else tape.op("Cast", [value], {"to": target})
