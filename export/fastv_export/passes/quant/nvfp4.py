"""Canonical form of nvfp4: weights and what they multiply in blocks of 16 inputs whose scales are fp8.

Weights are two DequantizeLinear: of the blocks' scales by the tensor's, and of the values by those. Activations get
their blocks' scales as they come, by an operator of TensorRT's own (ONNX has none that makes them).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.passes.common.constants import register, scalar
from fastv_export.quantization.float_formats import Nvfp4
from fastv_export.quantization.presets import FLOAT_BLOCK as BLOCK

DOMAIN = "trt"
"""Of TensorRT's own operators."""


def dequantized_weight(
    graph: ir.Graph, name: str, weight: CheckpointTensor, rounding: Nvfp4, *, before: ir.Node
) -> ir.Value:
    """A weight [inputs, outputs] as its four-bit values and scales, which are written when the graph is."""
    inputs, outputs = weight.shape.numpy()

    def read_values() -> ir.TensorProtocol:
        whole = np.empty((inputs, outputs // 2), np.uint8)
        for start, (codes, _) in rounding.encoded(weight):
            pairs = (codes[::2] | (codes[1::2] << 4)).t()
            whole[:, start // 2 : start // 2 + pairs.shape[1]] = pairs.numpy()
        return ir.PackedTensor(whole.reshape(-1), ir.DataType.FLOAT4E2M1, shape=weight.shape, name=f"{name}.fp4")

    def read_scales() -> ir.TensorProtocol:
        whole = np.empty((inputs // BLOCK, outputs), np.uint8)
        for start, (_, scales) in rounding.encoded(weight):
            assert scales is not None
            whole[:, start : start + scales.shape[0]] = scales.t().numpy()
        return ir.Tensor(whole.view(ml_dtypes.float8_e4m3fn), name=f"{name}.scales")

    shape = ir.Shape([inputs // BLOCK, outputs])
    values = register(graph, ir.LazyTensor(read_values, ir.DataType.FLOAT4E2M1, weight.shape, name=f"{name}.fp4"))
    scales = register(graph, ir.LazyTensor(read_scales, ir.DataType.FLOAT8E4M3FN, shape, name=f"{name}.scales"))
    scale = scalar(graph, f"{name}.scale", rounding.tensor_scale(), weight.dtype)
    tape = Tape()
    output = _dequantized(tape, name, values, scales, scale, axis=0)
    output.type, output.shape = ir.TensorType(weight.dtype), weight.shape
    graph.insert_before(before, tape.nodes)
    return output


def rounded_rows(graph: ir.Graph, rows: ir.Value, largest: float, *, before: ir.Node) -> ir.Value:
    """Activations rounded to nvfp4, those beyond `largest` perhaps cut off."""
    assert rows.dtype is not None
    name = str(rows.name)
    scale = scalar(graph, f"{name}.scale", Nvfp4(largest=largest).tensor_scale(), rows.dtype)
    tape = Tape()
    attributes = {"axis": -1, "block_size": BLOCK, "scale_type": int(ir.DataType.FLOAT8E4M3FN)}
    values, scales = tape.op_multi_out(
        "TRT_FP4DynamicQuantize", [rows, scale], attributes, num_outputs=2, domain=DOMAIN
    )
    for value, end, dtype in ((values, "fp4", "FLOAT4E2M1"), (scales, "fp4.scales", "FLOAT8E4M3FN")):
        value.name, value.type = f"{name}.{end}", ir.TensorType(ir.DataType[dtype])
    output = _dequantized(tape, name, values, scales, scale, axis=-1)
    output.type, output.shape = rows.type, rows.shape
    graph.insert_before(before, tape.nodes)
    graph.opset_imports[DOMAIN] = 1
    return output


def _dequantized(tape: Tape, name: str, values: ir.Value, scales: ir.Value, scale: ir.Value, *, axis: int) -> ir.Value:
    assert scale.dtype is not None
    by_block = tape.op("DequantizeLinear", [scales, scale])
    by_block.name, by_block.type, by_block.shape = f"{name}.by_block", ir.TensorType(scale.dtype), scales.shape
    output = tape.op("DequantizeLinear", [values, by_block], {"axis": axis, "block_size": BLOCK})
    output.name = f"{name}.dequantized"
    return output
