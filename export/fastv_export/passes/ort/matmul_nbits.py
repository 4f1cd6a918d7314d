"""Canonical -> `ort` dialect: products with weights in blocks of four or eight bits become one operator each.

ONNX Runtime would make the same of them when it loads a graph, holding every weight twice for it.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.take_over import take_over
from fastv_export.passes.quant.weight_only import ROUNDED
from fastv_export.quantization.weights import QuantizedWeight

DOMAIN = "com.microsoft"
IN_BYTES = 4
"""accuracy_level: activations are rounded to eight bits, block by block; ONNX Runtime's own choice for such weights."""


def lower_to_matmul_nbits(model: ir.Model) -> int:
    """Rewrite in place every MatMul whose weight is dequantized in blocks; returns how many there were."""
    graph = model.graph
    products = [node for node in graph if node.op_type == "MatMul" and _rounded(node.inputs[1]) is not None]
    packed: dict[ir.Value, list[ir.Value]] = {}
    for node in products:
        rows, weight = node.inputs
        rounded = _rounded(weight)
        assert weight is not None and rounded is not None and rounded.block is not None
        if weight not in packed:
            packed[weight] = [_constant(graph, each) for each in rounded.packed(str(weight.name))]
        inputs, outputs = rounded.shape
        attributes = {
            "K": inputs,
            "N": outputs,
            "bits": rounded.bits,
            "block_size": rounded.block,
            "accuracy_level": IN_BYTES,
        }
        tape = Tape()
        product = tape.op("MatMulNBits", [rows, *packed[weight]], attributes, domain=DOMAIN)
        graph.insert_before(node, tape.nodes)
        take_over(node.outputs[0], product)
        graph.remove(node, safe=True)
    if products:
        graph.opset_imports[DOMAIN] = 1
        common.RemoveUnusedNodesPass()(model)
    return len(products)


def _rounded(weight: ir.Value | None) -> QuantizedWeight | None:
    """What a product's weight was made of, if its scales are those of blocks."""
    rounded = None if weight is None else weight.meta.get(ROUNDED)
    return rounded if rounded is not None and rounded.block is not None else None


def _constant(graph: ir.Graph, tensor: ir.LazyTensor) -> ir.Value:
    value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value
