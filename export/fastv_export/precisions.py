"""What `--precision int8` and `int4` are where nothing more is said."""

from __future__ import annotations

from fastv_runtime.bundle import Part, Weights

BLOCK = 32
"""Inputs that share a scale in four bits."""
TRT_BLOCK = 64
"""The same for TensorRT, whose products of four bits are made for blocks of 64 and 128."""
WIDE: tuple[Part, ...] = ("vision", "prefix", "values", "head")
"""Parts that keep eight bits where others have four. The values of attention are few and need them most: see
docs/precision.md."""
FEW_BITS = {"int8": Weights(bits=8, block=None), "int4": Weights(bits=4, block=BLOCK, wide=WIDE)}
DEFAULTS = {"ort": "int8"}
"""Of targets whose default is not a precision of activations: the fastest answers of up to some fifty tokens on a CPU
(docs/benchmarks/few_bits.md), one in a thousand changed on the demo (docs/benchmarks/demo_precision.md)."""
