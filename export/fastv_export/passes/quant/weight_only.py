"""Weights of products in four or eight bits: MatMul(x, W) becomes MatMul(x, DequantizeLinear(values, scales)).

TensorRT takes the two as they stand; for ONNX Runtime `lower_to_matmul_nbits` makes one operator of them.
Floating-point formats have forms of their own (`fp8.py`, `nvfp4.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.passes.quant import fp8, nvfp4
from fastv_export.passes.quant.float_activations import FORMAT
from fastv_export.quantization.float_formats import Fp8, Nvfp4
from fastv_export.quantization.weights import Quantization, QuantizedWeight

ROUNDED = "rounded"
"""Of a dequantized value's meta: the RoundedWeight that it was made of, for dialects with an operator of their own."""


def quantize_weights(model: ir.Model, quantization_of: Callable[[str], Quantization | None]) -> dict[str, Quantization]:
    """Round the weights of products in place; returns the rounding of each by its name in the checkpoint.

    quantization_of: by an initializer's name; None leaves it. A weight that its rounding does not fit stays as it is.
    """
    graph = model.graph
    done: dict[str, Quantization] = {}
    made: dict[str, ir.Value] = {}
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or not isinstance(weight.const_value, CheckpointTensor):
            continue
        assert weight.name is not None
        rounding = quantization_of(weight.name)
        if rounding is None or not rounding.fits(weight.const_value):
            continue
        if weight.name not in made:
            if isinstance(rounding, (Fp8, Nvfp4)):
                rounding = rounding.fitted(weight.const_value)
            made[weight.name] = _dequantized(graph, weight.name, weight.const_value, rounding, before=node)
            done[weight.const_value.stored.name] = rounding
        node.replace_input_with(1, made[weight.name])
    for name in made:
        if not graph.initializers[name].uses():
            del graph.initializers[name]
    return done


def left_whole(model: ir.Model, quantization_of: Callable[[str], Quantization | None]) -> int:
    """How many weights of products were to be rounded and are as they were, after `quantize_weights`."""
    weights = {node.inputs[1] for node in model.graph if node.op_type == "MatMul"}
    return sum(
        weight is not None
        and isinstance(weight.const_value, CheckpointTensor)
        and quantization_of(str(weight.name)) is not None
        for weight in weights
    )


def _dequantized(
    graph: ir.Graph, name: str, weight: CheckpointTensor, rounding: Quantization, *, before: ir.Node
) -> ir.Value:
    if isinstance(rounding, (Fp8, Nvfp4)):
        if isinstance(rounding, Fp8):
            output = fp8.dequantized_weight(graph, name, weight, rounding, before=before)
        else:
            output = nvfp4.dequantized_weight(graph, name, weight, rounding, before=before)
        output.meta[FORMAT] = rounding
        return output
    rounded = QuantizedWeight(weight, rounding)
    tensors = [rounded.values(f"{name}.int{rounding.bits}"), rounded.scales(f"{name}.scales")]
    zeros = rounded.zeros(f"{name}.zeros")
    inputs = [
        ir.Value(name=each.name, type=ir.TensorType(each.dtype), shape=each.shape, const_value=each)
        for each in (tensors if zeros is None else [*tensors, zeros])
    ]
    for each in inputs:
        graph.register_initializer(each)
    tape = Tape()
    axes = {"axis": 1} if rounding.block is None else {"axis": 0, "block_size": rounding.block}
    output = tape.op("DequantizeLinear", inputs, axes)
    output.name, output.type, output.shape = f"{name}.dequantized", ir.TensorType(weight.dtype), weight.shape
    output.meta[ROUNDED] = rounded
    graph.insert_before(before, tape.nodes)
    return output
