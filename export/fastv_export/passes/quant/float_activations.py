"""Canonical form: inputs of fp8 and nvfp4 products rounded to the format of their weights, in known ranges."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from fastv_export.passes.quant import fp8, nvfp4
from fastv_export.quantization.float_formats import FloatQuantization, Fp8

FORMAT = "format"
"""Of a dequantized value's meta: its FloatRounding."""


def quantize_float_activations(model: ir.Model, ranges: Mapping[str, float], headroom: float) -> int:
    """Round, in place, what products with fp8 and nvfp4 weights are given; returns how many tensors that are.

    ranges: the largest size of each input that was seen, by its value's name; `headroom` times that is held. Products
    without one keep their inputs as they are.
    """
    rounded: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type != "MatMul":
            continue
        rows, weight = node.inputs
        rounding = None if weight is None else weight.meta.get(FORMAT)
        largest = None if rows is None else ranges.get(str(rows.name))
        if not isinstance(rounding, FloatQuantization) or rows is None or largest is None:
            continue
        if rows not in rounded:
            form = fp8 if isinstance(rounding, Fp8) else nvfp4
            rounded[rows] = form.rounded_rows(model.graph, rows, headroom * largest, before=node)
        node.replace_input_with(0, rounded[rows])
    return len(rounded)
