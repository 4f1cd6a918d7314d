"""Canonical -> `openvino` dialect: weights as checkpoints store them, [outputs, inputs], read by a product of rows.

So OpenVINO's kernels take them. It would turn others when it loads a graph, holding every weight twice for it.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.passes.quant.weight_only import ROUNDED
from fastv_export.quantization.weights import QuantizedWeight


def lower_to_stored_weights(model: ir.Model) -> int:
    """Rewrite in place every MatMul by a weight that is turned as it is written; returns how many weights there are."""
    graph = model.graph
    turned: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None:
            continue
        if weight not in turned:
            tape = Tape()
            rows = _rows(tape, graph, weight)
            if rows is None:
                continue
            turned[weight] = tape.op("Transpose", [rows], {"perm": [1, 0]})
            turned[weight].type, turned[weight].shape = weight.type, weight.shape
            graph.insert_before(node, tape.nodes)
        node.replace_input_with(1, turned[weight])
    common.RemoveUnusedNodesPass()(model)
    for weight in turned:
        if weight.is_initializer() and not weight.uses():
            del graph.initializers[str(weight.name)]
    return len(turned)


def _rows(tape: Tape, graph: ir.Graph, weight: ir.Value) -> ir.Value | None:
    """The weight [outputs, inputs]; None for one that is not turned."""
    name = str(weight.name)
    tensor, rounded = weight.const_value, weight.meta.get(ROUNDED)
    if isinstance(tensor, CheckpointTensor) and tensor.transposed:
        return _constant(graph, tensor.transpose(name.removesuffix(".T")))
    if not isinstance(rounded, QuantizedWeight):
        return None
    axes = {"axis": 0} if rounded.block is None else {"axis": 1, "block_size": rounded.block}
    constants = [_constant(graph, each) for each in rounded.rows(name.removesuffix(".dequantized").removesuffix(".T"))]
    return tape.op("DequantizeLinear", constants, axes)


def _constant(graph: ir.Graph, tensor: ir.LazyTensor) -> ir.Value:
    assert tensor.name is not None
    if tensor.name in graph.initializers:
        return graph.initializers[tensor.name]
    value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value
