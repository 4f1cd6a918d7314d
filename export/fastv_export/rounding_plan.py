"""Which weights of which graph get how many bits, by a plan, and how their scales are chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from fastv_export.activations import Activation
from fastv_export.rounding import Rounding
from fastv_export.scaling import Method, activation_aware, smoothing
from fastv_runtime.bundle import DialectName, Part, Plan, Weights


def rounding_of(graph: str, plan: Plan, layers: int, dialect: DialectName) -> Callable[[str], Rounding | None]:
    """For `quantise_weights`: the rounding of a graph's initializers by their names there. layers: of the decoder."""
    weights = plan.weights

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
            index = _first_layer(graph, plan) + int(layer[1])
            found |= {"first"} if index == 0 else {"last"} if index == layers - 1 else set()
        return found

    return rounding


def activation_of(graph: str, plan: Plan, activations: Mapping[str, Activation]) -> Callable[[str], Activation | None]:
    """For `scale_inputs`: the activation of a decoder graph's product by its weight's name there."""

    def activation(name: str) -> Activation | None:
        product = re.sub(r"\.weight(\.T)?$", "", name)
        first = _first_layer(graph, plan)
        return activations.get(re.sub(r"^layers\.(\d+)", lambda found: f"layers.{first + int(found[1])}", product))

    return activation


def method_of(plan: Plan, weights: Weights, dialect: DialectName) -> Method:
    """SmoothQuant where activations are rounded to eight bits as well, AWQ where weights alone are."""
    dynamic = dialect == "ort" and plan.precision == "float32" and weights.bits == 8 and weights.block is None
    return smoothing if dynamic or weights.static else activation_aware


def _first_layer(graph: str, plan: Plan) -> int:
    """The layer that a graph calls its first: a suffix begins with the MLP of layer K-1."""
    return plan.layer - 1 if graph == "suffix" and plan.layer is not None else 0
