"""Canonical form: inputs of int8 products rounded by calibrated ranges, as QuantizeLinear and DequantizeLinear.

One step for a whole tensor, symmetric: TensorRT makes int8 products of the two and the weights' DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

LARGEST = 127
NUMPY = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16}


def quantize_activations(model: ir.Model, ranges: Mapping[str, float]) -> int:
    """Round, in place, what products with int8 weights are given; returns how many tensors that are.

    ranges: the largest size of each input, by its value's name. Products without one keep their inputs as they are.
    """
    graph = model.graph
    rounded: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        rows = node.inputs[0] if node.op_type == "MatMul" and _is_int8(node.inputs[1]) else None
        largest = None if rows is None else ranges.get(str(rows.name))
        if rows is None or largest is None:
            continue
        if rows not in rounded:
            rounded[rows] = _rounded(graph, rows, largest, before=node)
        node.replace_input_with(0, rounded[rows])
    return len(rounded)


def _rounded(graph: ir.Graph, rows: ir.Value, largest: float, *, before: ir.Node) -> ir.Value:
    assert rows.dtype is not None
    dtype = NUMPY[rows.dtype]
    # No step is so small that fp16 does not have it.
    step = np.array(max(largest / LARGEST, float(ml_dtypes.finfo(dtype).tiny)), dtype)
    tape = Tape()
    constants = []
    for kind, array in (("step", step), ("zero", np.array(0, np.int8))):
        name = f"{rows.name}.{kind}"
        tensor = ir.Tensor(array, name=name)
        constants.append(ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([]), const_value=tensor))
        graph.register_initializer(constants[-1])
    integers = tape.op("QuantizeLinear", [rows, *constants])
    output = tape.op("DequantizeLinear", [integers, *constants])
    integers.name, integers.type, integers.shape = f"{rows.name}.int8", ir.TensorType(ir.DataType.INT8), rows.shape
    output.name, output.type, output.shape = f"{rows.name}.rounded", rows.type, rows.shape
    graph.insert_before(before, tape.nodes)
    return output


def _is_int8(weight: ir.Value | None) -> bool:
    node = None if weight is None else weight.producer()
    return (
        node is not None
        and node.op_type == "DequantizeLinear"
        and "block_size" not in node.attributes
        and node.inputs[0] is not None
        and node.inputs[0].dtype == ir.DataType.INT8
    )
