"""Canonical -> `ort` dialect: products with int8 weights compute in int8, their activations rounded as they come.

DynamicQuantizeLinear takes the range of all rows at hand; ONNX Runtime's MatMulIntegerToFloat multiplies bytes with
the processor's dot-product instructions where it has them, and scales the sums.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.take_over import take_over

DOMAIN = "com.microsoft"


def lower_to_dynamic_int8(model: ir.Model) -> int:
    """Rewrite in place every fp32 MatMul whose weight is int8 with a scale per output; returns how many there were."""
    graph = model.graph
    products = [node for node in graph if node.op_type == "MatMul" and _dequantised(node.inputs[1])]
    quantised: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
    for node in products:
        rows, weight = node.inputs
        assert rows is not None and weight is not None
        dequantise = weight.producer()
        assert dequantise is not None
        values, scales = dequantise.inputs
        tape = Tape()
        if rows not in quantised:  # queries, keys and values share theirs
            integers, scale, zero = tape.op_multi_out("DynamicQuantizeLinear", [rows], num_outputs=3)
            quantised[rows] = integers, scale, zero
        integers, scale, zero = quantised[rows]
        product = tape.op("MatMulIntegerToFloat", [integers, values, scale, scales, zero], domain=DOMAIN)
        graph.insert_before(node, tape.nodes)
        take_over(node.outputs[0], product)
        graph.remove(node, safe=True)
    if products:
        graph.opset_imports[DOMAIN] = 1
        common.RemoveUnusedNodesPass()(model)
    return len(products)


def _dequantised(weight: ir.Value | None) -> bool:
    node = None if weight is None else weight.producer()
    if node is None or node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return False
    scales = node.inputs[1]
    return weight is not None and scales is not None and scales.dtype == ir.DataType.FLOAT
