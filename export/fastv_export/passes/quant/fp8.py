"""Canonical form of fp8: DequantizeLinear of E4M3 weights, QuantizeLinear and DequantizeLinear of what they multiply.

One scale for a tensor each, which TensorRT-RTX makes one product of fp8 by fp8 of, scaled while its sums are fp32.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.passes.common.constants import register, scalar
from fastv_export.quantization.float_formats import Fp8


def dequantized_weight(
    graph: ir.Graph, name: str, weight: CheckpointTensor, rounding: Fp8, *, before: ir.Node
) -> ir.Value:
    """A weight [inputs, outputs] as its fp8 values and their scale, which are written when the graph is."""
    shape = weight.shape

    def read() -> ir.TensorProtocol:
        whole = np.empty(shape.numpy(), np.uint8)
        for start, (values, _) in rounding.encoded(weight):
            whole[:, start : start + values.shape[0]] = values.t().numpy()
        return ir.Tensor(whole.view(ml_dtypes.float8_e4m3fn), name=f"{name}.fp8")

    values = register(graph, ir.LazyTensor(read, ir.DataType.FLOAT8E4M3FN, shape, name=f"{name}.fp8"))
    scale = scalar(graph, f"{name}.scale", rounding.tensor_scale(), weight.dtype)
    tape = Tape()
    output = tape.op("DequantizeLinear", [values, scale])
    output.name, output.type, output.shape = f"{name}.dequantized", ir.TensorType(weight.dtype), shape
    graph.insert_before(before, tape.nodes)
    return output


def rounded_rows(graph: ir.Graph, rows: ir.Value, largest: float, *, before: ir.Node) -> ir.Value:
    """Activations rounded to fp8, those beyond `largest` perhaps cut off."""
    assert rows.dtype is not None
    scale = scalar(graph, f"{rows.name}.scale", Fp8(largest=largest).tensor_scale(), rows.dtype)
    zero = register(graph, ir.Tensor(np.array(0, ml_dtypes.float8_e4m3fn), name=f"{rows.name}.zero"))
    tape = Tape()
    values = tape.op("QuantizeLinear", [rows, scale, zero])
    output = tape.op("DequantizeLinear", [values, scale, zero])
    values.name, values.type, values.shape = f"{rows.name}.fp8", ir.TensorType(ir.DataType.FLOAT8E4M3FN), rows.shape
    output.name, output.type, output.shape = f"{rows.name}.rounded", rows.type, rows.shape
    graph.insert_before(before, tape.nodes)
    return output
