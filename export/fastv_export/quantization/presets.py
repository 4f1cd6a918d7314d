"""The precisions that can be asked for, and what each is where nothing more is said.

The help of commands reads this table: the models of `fastv_runtime.config` are imported when weights are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastv_runtime.config.plan import Part, Precision, Weights

    FEW_BITS: dict[str, Weights]
    FLOATING: dict[str, Weights]

PROCESSORS = ("ort", "openvino")
"""Targets, and their dialects, of runtimes for CPUs."""
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
    few_bits: Mapping[str, Any] | None = None
    """Fields of `weights`; None: weights are of the same precision as activations."""
    measured: bool = False
    """Whether fastv-calibrate measures plans in it."""

    @property
    def weights(self) -> Weights | None:
        """None: of the same precision as activations."""
        from fastv_runtime.config.plan import Weights

        return None if self.few_bits is None else Weights(**self.few_bits)


PRESETS = {
    each.name: each
    for each in (
        Preset("fp32", "weights and activations", activations="float32", measured=True),
        Preset("fp16", "weights and activations", activations="float16"),
        Preset("bf16", "weights and activations, on trt targets", activations="bfloat16"),
        Preset(
            "int8",
            "weights; inputs of linear layers too on ort and openvino, and on trt targets with a calibration",
            few_bits={"bits": 8, "block": None},
            measured=True,
        ),
        Preset("int4", "weights", few_bits={"bits": 4, "block": BLOCK, "wide": WIDE}, measured=True),
        Preset(
            "fp8",
            "the decoder's linear layers, on trt targets and GPUs since SM89",
            few_bits={"bits": 8, "block": None, "static": True, "floating": True},
        ),
        # Of linear layers in nvfp4 those of attention cost most for their size (docs/precision.md): they are a quarter
        # of the weights, or less. Towers stay in the precision of activations: nothing is measured there.
        Preset(
            "nvfp4",
            "the same, on GPUs since SM100",
            few_bits={
                "bits": 4,
                "block": FLOAT_BLOCK,
                "wide": ("prefix", "attention", "head"),
                "static": True,
                "floating": True,
            },
        ),
    )
}
"""Every precision, once: what options take, what help texts say, what calibration measures."""
PRECISIONS: dict[str, Precision] = {each.name: each.activations for each in PRESETS.values() if each.activations}
"""Those of weights and activations alike."""
DEFAULTS = {"ort": "int8", "openvino": "int8"}
"""Of targets whose default is not a precision of activations: the fastest answers of up to some fifty tokens on a CPU
(docs/benchmarks/few_bits.md), one in a thousand changed on the demo (docs/benchmarks/demo_precision.md)."""


def __getattr__(name: str) -> dict[str, Weights]:
    """`FEW_BITS`: integer weights by precision. `FLOATING`: floating-point weights in few bits, for TensorRT alone."""
    if name not in ("FEW_BITS", "FLOATING"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = {each.name: each.weights for each in PRESETS.values()}
    return {key: weights for key, weights in made.items() if weights and weights.floating == (name == "FLOATING")}
