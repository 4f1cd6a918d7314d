"""TensorRT's operator that rounds activations to nvfp4, in operators that ONNX Runtime has: to see what it costs.

An ONNX function; whoever executes it puts its nodes in the place of the operator. Values are of E4M3, which has all of
E2M1 (`fp4_as_fp8`).
"""

from __future__ import annotations

from onnx import FunctionProto, parser

from fastv_export.passes.quant.nvfp4 import DOMAIN
from fastv_export.quantization.presets import FLOAT_BLOCK

OPERATOR = "TRT_FP4DynamicQuantize"
_BODY = f"""
< opset_import: ["" : 24], domain: "{DOMAIN}" >
{OPERATOR} <axis, block_size, scale_type> (rows, scale) => (values, scales)
{{
    x = Cast <to = 1> (rows)
    by_tensor = Cast <to = 1> (scale)
    shape = Constant <value_ints = [0, 0, -1, {FLOAT_BLOCK}]> ()
    blocks = Reshape (x, shape)
    last = Constant <value_ints = [-1]> ()
    size = Abs (blocks)
    largest = ReduceMax <keepdims = 1> (size, last)
    six = Constant <value_float = 6.0> ()
    reach = Mul (six, by_tensor)
    wanted = Div (largest, reach)
    most = Constant <value_float = 448.0> ()
    possible = Min (wanted, most)
    rounded_scales = Cast <to = 17> (possible)
    back = Cast <to = 1> (rounded_scales)
    divisor = Mul (back, by_tensor)
    zero = Constant <value_float = 0.0> ()
    nothing = Equal (divisor, zero)
    quotient = Div (blocks, divisor)
    counted = Where (nothing, zero, quotient)
    minus_six = Neg (six)
    clipped = Clip (counted, minus_six, six)
    clipped_size = Abs (clipped)
    two = Constant <value_float = 2.0> ()
    four = Constant <value_float = 4.0> ()
    half = Constant <value_float = 0.5> ()
    one = Constant <value_float = 1.0> ()
    below_two = Less (clipped_size, two)
    below_four = Less (clipped_size, four)
    coarse = Where (below_four, one, two)
    step = Where (below_two, half, coarse)
    steps = Div (clipped, step)
    whole = Round (steps)
    e2m1 = Mul (whole, step)
    rows_shape = Shape (rows)
    flat = Reshape (e2m1, rows_shape)
    values = Cast <to = 17> (flat)
    flat_scales = Squeeze (possible, last)
    scales = Cast <to = 17> (flat_scales)
}}
"""


def fp4_dynamic_quantize() -> FunctionProto:
    """For rows [1, S, I] and a scale []: values of E4M3 [1, S, I], and scales of E4M3 [1, S, I / 16]."""
    return parser.parse_function(_BODY)
