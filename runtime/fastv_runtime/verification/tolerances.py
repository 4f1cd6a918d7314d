"""How far outputs may differ from what transformers computes: every limit, and why it is that large."""

from __future__ import annotations

import math
from typing import get_args

from fastv_runtime.config.bundle import DecoderConfig, GraphSpec
from fastv_runtime.config.cuts import Signal
from fastv_runtime.config.plan import Plan, Precision

ROUNDOFF: dict[Precision, float] = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}
"""Largest relative error of one rounding."""

TOLERANCE_FP32 = 1e-4
"""fp32 graphs differ from transformers by the order of summation alone: 1e-6 per linear layer, growing with depth."""

LOGIT = 4
"""Size of an attention logit for which its rounding is allowed for in the scores: softmax turns the absolute error of
a logit, which grows with its size, into a relative error of the score."""

DYNAMIC = 0.25
"""Allowed where kernels round activations as they come, which nothing bounds. On the demo model that comes to 0.01
(int8) and 0.04 (int4); a graph that computes something else is off by 1 and more."""

STATIC = 0.3
"""Allowed where an engine rounds activations to eight bits by calibrated ranges. Nothing bounds what that does, and the
golden prompt is random, in part beyond the ranges: 0.07 was measured on the demo. Unrelated values differ by 1.4."""

STATIC_NVFP4 = 0.7
"""The same for four bits: 0.47 in the logits of one token of text was the most, 0.30 in the last states (SmolLM2-135M,
30 layers, in emulation; fp8 there: 0.03 and 0.12)."""

GRAPHS_IN_CHAIN = 3
"""Tower, prefix and suffix (a graph more for every further cut), from pixels to tokens: each may be off by what
rounding explains in one graph, and at worst that adds up."""

LOGITS = 8
"""By how many root mean squares of an error two logits may change places: what is said of all of them is their mean
square, and the two largest of a vocabulary's worth of errors are four of these each."""


def tolerance(plan: Plan, spec: GraphSpec, decoder: DecoderConfig, output: str) -> float:
    """Largest `difference` that rounding explains in an output of a graph whose activations are not quantized.

    In half precision a layer rounds some twelve intermediate results, each by up to one roundoff u, u/sqrt(3) in the
    mean, and independently: sqrt(12 L) u/sqrt(3) = 2u sqrt(L) after L layers. Twice that is allowed. (Weights add
    nothing: golden vectors are computed from the bundle's.) A tower is taken to be as deep as the decoder.
    """
    if plan.precision == "float32":
        return TOLERANCE_FP32
    layers = sum(tensor.name.startswith("present_key_") for tensor in spec.outputs) or decoder.num_hidden_layers
    return 4 * ROUNDOFF[plan.precision] * math.sqrt(layers) * (LOGIT if output in get_args(Signal) else 1)


def engine_tolerance(
    graph: str, plan: Plan, spec: GraphSpec, decoder: DecoderConfig, output: str, computes: Precision | None = None
) -> float:
    """The same for an engine at hand, which quantizes activations where the plan or its kernels have it so.

    computes: what its kernels compute in, where the graph does not say.
    """
    exact, weights = tolerance(plan, spec, decoder, output), plan.weights
    if computes is not None:
        exact = max(exact, tolerance(plan.model_copy(update={"precision": computes}), spec, decoder, output))
    if weights is None:
        return exact
    if weights.static:
        if graph not in plan.decoder_graphs:
            return exact  # towers get no ranges
        return max(exact, STATIC_NVFP4 if weights.name == "nvfp4" else STATIC)
    return max(exact, DYNAMIC) if spec.dialect in ("ort", "openvino") else exact


def chain_tolerance(plan: Plan, spec: GraphSpec, decoder: DecoderConfig, output: str) -> float:
    """Largest difference from pixels to `output` of the last graph; `tokens`: see `LOGITS`."""
    if output == "tokens":
        return LOGITS * chain_tolerance(plan, spec, decoder, "logits")
    return (GRAPHS_IN_CHAIN + max(0, len(plan.cuts) - 1)) * tolerance(plan, spec, decoder, output)
