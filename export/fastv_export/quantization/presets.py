"""The precisions that can be asked for, and what each is where nothing more is said."""

from __future__ import annotations

from dataclasses import dataclass

from fastv_runtime.config.plan import Part, Precision, Weights

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


@dataclass(frozen=True)
class Preset:
    """One precision that can be asked for, by the name that options have for it."""

    name: str
    summary: str
    """For help texts: of what it is the precision."""
    activations: Precision | None = None
    """None: the target's own."""
    weights: Weights | None = None
    """None: of the same precision as activations."""
    measured: bool = False
    """Whether fastv-calibrate measures plans in it."""


PRESETS = {
    each.name: each
    for each in (
        Preset("fp32", "weights and activations", activations="float32", measured=True),
        Preset("fp16", "weights and activations", activations="float16"),
        Preset("bf16", "weights and activations, on trt targets", activations="bfloat16"),
        Preset(
            "int8",
            "weights; inputs of linear layers too on ort, and on trt targets with a calibration",
            weights=Weights(bits=8, block=None),
            measured=True,
        ),
        Preset("int4", "weights", weights=Weights(bits=4, block=BLOCK, wide=WIDE), measured=True),
        Preset(
            "fp8",
            "the decoder's linear layers, on trt targets and GPUs since SM89",
            weights=Weights(bits=8, block=None, static=True, floating=True),
        ),
        # Of linear layers in nvfp4 those of attention cost most for their size (docs/precision.md): they are a quarter
        # of the weights, or less. Towers stay in the precision of activations: nothing is measured there.
        Preset(
            "nvfp4",
            "the same, on GPUs since SM100",
            weights=Weights(
                bits=4, block=FLOAT_BLOCK, wide=("prefix", "attention", "head"), static=True, floating=True
            ),
        ),
    )
}
"""Every precision, once: what options take, what help texts say, what calibration measures."""
PRECISIONS: dict[str, Precision] = {each.name: each.activations for each in PRESETS.values() if each.activations}
"""Those of weights and activations alike."""
FEW_BITS = {each.name: each.weights for each in PRESETS.values() if each.weights and not each.weights.floating}
"""Those of integer weights."""
FLOATING = {each.name: each.weights for each in PRESETS.values() if each.weights and each.weights.floating}
"""Those of floating-point weights in few bits, for TensorRT alone."""
DEFAULTS = {"ort": "int8"}
"""Of targets whose default is not a precision of activations: the fastest answers of up to some fifty tokens on a CPU
(docs/benchmarks/few_bits.md), one in a thousand changed on the demo (docs/benchmarks/demo_precision.md)."""
