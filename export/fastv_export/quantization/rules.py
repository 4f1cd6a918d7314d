"""Which weights of which graph get how many bits, by a plan, and how their scales are chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import gcd

from fastv_export.quantization.activations import Activation
from fastv_export.quantization.float_formats import Fp8, Nvfp4
from fastv_export.quantization.presets import PROCESSORS
from fastv_export.quantization.scaling import Method, activation_aware, smoothing, unscaled
from fastv_export.quantization.weights import Quantization
from fastv_runtime.config.plan import DialectName, Part, Plan, Weights

HEAD_BLOCK = 128
"""The head's block in eight bits: see `_head`."""
LEAST_BLOCK = 16
"""Of MatMulNBits."""


def quantization_of(
    graph: str, plan: Plan, dialect: DialectName, *, layers: int, width: int
) -> Callable[[str], Quantization | None]:
    """For `quantize_weights`: the rounding of a graph's initializers by their names there.

    layers, width: of the decoder, and of its hidden states.
    """
    weights = plan.weights

    def rounding(name: str) -> Quantization | None:
        if weights is None:
            return None
        if weights.floating:
            return _floating(parts(name), weights)
        if weights.bits == 4 and parts(name) & set(weights.wide):
            # TensorRT builds no int8 weights in blocks; ONNX Runtime would round activations beside those without.
            return Quantization(8, weights.block if dialect == "ort" else None)
        if "head" in parts(name) and dialect == "ort" and quantizes_activations(plan, weights, dialect):
            return _head(width)
        # TensorRT takes no zero points.
        return Quantization(weights.bits, weights.block, zero_points=weights.bits == 4 and dialect in PROCESSORS)

    def parts(name: str) -> set[Part]:
        if graph in ("vision", "video"):
            return {"vision"}
        if name.startswith("head."):
            return {"head"}
        found: set[Part] = {"prefix"} if graph in plan.decoder_graphs[:-1] else set()
        layer = re.match(r"layers\.(\d+)\.", name)
        if layer is not None:
            found |= {"attention"} if "attn" in name else set()
            index = plan.first_layer(graph) + int(layer[1])
            found |= {"first"} if index == 0 else {"last"} if index == layers - 1 else set()
            found |= {"values"} if ".v_proj." in name else set()
        return found

    return rounding


def activation_of(graph: str, plan: Plan, activations: Mapping[str, Activation]) -> Callable[[str], Activation | None]:
    """For `scale_inputs`: the activation of a decoder graph's product by its weight's name there."""

    def activation(name: str) -> Activation | None:
        product = re.sub(r"\.weight(\.T)?$", "", name)
        first = plan.first_layer(graph)
        return activations.get(re.sub(r"^layers\.(\d+)", lambda found: f"layers.{first + int(found[1])}", product))

    return activation


def method_of(plan: Plan, weights: Weights, dialect: DialectName) -> Method:
    """SmoothQuant where activations are rounded to eight bits as well, AWQ where weights alone are; none for floats."""
    if weights.floating:
        return unscaled
    return smoothing if quantizes_activations(plan, weights, dialect) or weights.static else activation_aware


def quantizes_activations(plan: Plan, weights: Weights, dialect: DialectName) -> bool:
    """Whether products become int8 by int8, activations rounded as they come.

    By OpenVINO in groups (`graphs.openvino_ir.activation_group`), with weights in four bits too.
    """
    if weights.bits != 8 or weights.block is not None or weights.floating:
        return False
    return dialect == "openvino" or (dialect == "ort" and plan.precision == "float32")


def wants_activations(plan: Plan, weights: Weights, dialect: DialectName) -> bool:
    """Whether rounding goes by what products are given, a calibration or not.

    Four bits, and activations in eight, are far worse for a pretrained model without.
    """
    return weights.bits == 4 or weights.floating or quantizes_activations(plan, weights, dialect)


def _floating(parts: set[Part], weights: Weights) -> Quantization | None:
    """Towers stay as they are."""
    if "vision" in parts:
        return None
    return Nvfp4() if weights.bits == 4 and not parts & set(weights.wide) else Fp8()


def _head(width: int) -> Quantization:
    """Blocks for the head: it multiplies one row alone, where MatMulNBits is faster than ONNX Runtime's int8 product.

    Least of 40 runs, two cores: 12 ms against 20 for 896 x 151,936.
    """
    block = gcd(width, HEAD_BLOCK)
    return Quantization(8, block if block >= LEAST_BLOCK else None)
