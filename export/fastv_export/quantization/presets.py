"""What the precisions `int8`, `int4`, `fp8` and `nvfp4` are where nothing more is said."""

from __future__ import annotations

from fastv_runtime.config.plan import Part, Weights

BLOCKS = (32, 64, 128)
"""Inputs that may share a scale."""
BLOCK = 32
"""Inputs that share a scale in four bits."""
TRT_BLOCK = 64
"""The same for TensorRT, whose products of four bits are made for blocks of 64 and 128."""
FLOAT_BLOCK = 16
"""Inputs that share a scale in nvfp4, as the format has it."""
WIDE: tuple[Part, ...] = ("vision", "prefix", "values", "head")
"""Parts that keep eight bits where others have four. The values of attention are few and need them most: see
docs/precision.md."""
PARTS: tuple[Part, ...] = ("vision", "prefix", "first", "last", "values", "head")
"""Parts that a user may choose to keep in eight bits."""
FEW_BITS = {"int8": Weights(bits=8, block=None), "int4": Weights(bits=4, block=BLOCK, wide=WIDE)}
FLOATING = {
    "fp8": Weights(bits=8, block=None, static=True, floating=True),
    "nvfp4": Weights(bits=4, block=FLOAT_BLOCK, wide=("prefix", "attention", "head"), static=True, floating=True),
}
"""For TensorRT alone. Of products in nvfp4 those of attention cost most for their size (docs/precision.md): they are a
quarter of the weights, or less. Towers stay in the precision of activations: nothing is measured there."""
DEFAULTS = {"ort": "int8"}
"""Of targets whose default is not a precision of activations: the fastest answers of up to some fifty tokens on a CPU
(docs/benchmarks/few_bits.md), one in a thousand changed on the demo (docs/benchmarks/demo_precision.md)."""
