"""Which weights of which graph get how many bits, by a plan."""

from __future__ import annotations

import re
from collections.abc import Callable

from fastv_export.rounding import Rounding
from fastv_runtime.bundle import DialectName, Part, Plan


def rounding_of(graph: str, plan: Plan, layers: int, dialect: DialectName) -> Callable[[str], Rounding | None]:
    """For `quantise_weights`: the rounding of a graph's initializers by their names there. layers: of the decoder."""
    weights = plan.weights
    first_layer = plan.layer or 0 if graph == "suffix" else 0

    def rounding(name: str) -> Rounding | None:
        if weights is None:
            return None
        if weights.bits == 4 and parts(name) & set(weights.wide):
            # TensorRT builds no int8 weights in blocks; ONNX Runtime would round activations beside those without.
            return Rounding(8, weights.block if dialect == "ort" else None)
        return Rounding(weights.bits, weights.block)

    def parts(name: str) -> set[Part]:
        if graph in ("vision", "video"):
            return {"vision"}
        if name.startswith("head."):
            return {"head"}
        found: set[Part] = {"prefix"} if graph == "prefix" else set()
        layer = re.match(r"layers\.(\d+)\.", name)
        if layer is not None:
            index = first_layer + int(layer[1])
            found |= {"first"} if index == 0 else {"last"} if index == layers - 1 else set()
        return found

    return rounding
