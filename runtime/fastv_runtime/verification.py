"""Run every graph of a bundle on its golden vectors: what transformers computed, on the device at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fastv_runtime.backends.base import Engine
from fastv_runtime.config.bundle import GOLDEN, Bundle, DecoderConfig, GraphSpec, Plan, Precision

ROUNDOFF: dict[Precision, float] = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}
"""Largest relative error of one rounding."""

TOLERANCE_FP32 = 1e-4
"""fp32 graphs differ from transformers by the order of summation alone: 1e-6 per product, growing with depth."""


LOGIT = 4
"""Size of an attention logit for which its rounding is allowed for in the scores: softmax turns the absolute error of
a logit, which grows with its size, into a relative error of the score."""


STATIC = 0.3
"""Allowed where an engine rounds activations to eight bits by calibrated ranges. Nothing bounds what that does, and the
golden prompt is random, in part beyond the ranges: 0.07 was measured on the demo. Unrelated values differ by 1.4."""
STATIC_NVFP4 = 0.7
"""The same for four bits: 0.47 in the logits of one token of text was the most, 0.30 in the last states (SmolLM2-135M,
30 layers, in emulation; fp8 there: 0.03 and 0.12)."""


def tolerance(plan: Plan, spec: GraphSpec, decoder: DecoderConfig, output: str, *, static: bool = False) -> float:
    """Largest `difference` that rounding explains in an output of a graph.

    In half precision a layer rounds some twelve intermediate results, each by up to one roundoff u, u/sqrt(3) in the
    mean, and independently: sqrt(12 L) u/sqrt(3) = 2u sqrt(L) after L layers. Twice that is allowed. (Weights add
    nothing: golden vectors are computed from the bundle's.) A tower is taken to be as deep as the decoder.
    static: activations are rounded to few bits, as an export's own comparison leaves out.
    """
    if static:
        return STATIC_NVFP4 if plan.weights is not None and plan.weights.name == "nvfp4" else STATIC
    if plan.precision == "float32":
        return TOLERANCE_FP32
    layers = sum(tensor.name.startswith("present_key_") for tensor in spec.outputs) or decoder.num_hidden_layers
    return 4 * ROUNDOFF[plan.precision] * layers**0.5 * (LOGIT if output == "scores" else 1)


def self_test(bundle: Bundle, load: Callable[[str, GraphSpec], Engine]) -> dict[str, float]:
    """Largest difference per graph, over all its golden cases and outputs. `load` makes a graph's engine."""
    golden = read_golden(bundle)
    worst: dict[str, float] = {}
    for name, spec in bundle.manifest.graphs.items():
        cases = golden_cases(name, spec, golden, bundle.manifest.plan)
        if cases:
            engine = load(name, spec)
            worst[name] = max(run_case(engine, case) for case in cases)
    return worst


@dataclass(frozen=True)
class Case:
    """One run of a graph: golden inputs as the graph takes them, and what transformers computed from them."""

    name: str
    spec: GraphSpec
    golden: Mapping[str, np.ndarray]

    def inputs(self) -> dict[str, np.ndarray]:
        """All inputs by name."""
        return {tensor.name: self.input(tensor.name) for tensor in self.spec.inputs}

    def input(self, name: str) -> np.ndarray:
        """One input in the graph's element type; a cache is padded with zeros to the capacity that the graph has."""
        tensor = next(tensor for tensor in self.spec.inputs if tensor.name == name)
        stored = self.golden.get(f"{self.name}/in/{name}")
        if stored is not None and not name.startswith("past_"):
            return np.ascontiguousarray(stored, tensor.dtype)
        buffer = np.zeros([int(axis) for axis in tensor.shape], tensor.dtype)
        if stored is not None:
            buffer[:, :, : stored.shape[2]] = stored
        return buffer

    def expected(self, name: str) -> np.ndarray | None:
        """What transformers computed for an output; None if the case does not say."""
        return self.golden.get(f"{self.name}/out/{name}")


def golden_cases(graph: str, spec: GraphSpec, golden: Mapping[str, np.ndarray], plan: Plan) -> list[Case]:
    """The cases of one graph. `golden`: arrays by their names in the bundle's file."""
    if graph == "select" and plan.ranker == "random":
        return []  # golden vectors hold the choice by score: engines round the sine of its noise each in its way
    names = sorted({"/".join(key.split("/")[:2]) for key in golden if key.startswith(f"{graph}/")})
    return [Case(name, spec, golden) for name in names]


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Each token's root mean square error, relative to its values', and of these the root mean square over tokens.

    Tokens are the axis before the last; of a cache, only the rows that the case knows count. Relative per token, since
    the first token's hidden state may be a thousand times larger than the others'.
    """
    if actual.shape != expected.shape:
        actual = actual[:, :, : expected.shape[2]]
    axes = tuple(axis for axis in range(expected.ndim) if axis != expected.ndim - 2)
    wanted = expected.astype(np.float64)
    error = np.sqrt(((actual.astype(np.float64) - wanted) ** 2).sum(axis=axes))
    scale = np.sqrt((wanted**2).sum(axis=axes))
    # A token that is all but zero is measured by the others.
    relative = error / np.maximum(scale, 1e-3 * scale.max() + np.finfo(np.float32).tiny)
    return float(np.sqrt((relative**2).mean()))


def read_golden(bundle: Bundle) -> dict[str, np.ndarray]:
    """The bundle's golden vectors."""
    from safetensors.numpy import load_file

    return load_file(bundle.file(GOLDEN))


def run_case(engine: Engine, case: Case) -> float:
    """Largest `difference` of an engine over the outputs that the case knows."""
    return max(difference(actual, expected) for actual, expected in known_outputs(engine, case).values())


def known_outputs(engine: Engine, case: Case) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What an engine computes and what transformers did, for each output that the case knows."""
    inputs = case.inputs()
    outputs = {}
    for tensor in case.spec.outputs:
        past = tensor.name.replace("present_", "past_")
        expected = case.expected(tensor.name)
        if past in inputs:
            outputs[tensor.name] = inputs[past]
        else:
            rows = inputs["hidden"].shape[1] if "hidden" in inputs else 0
            shape = tuple(rows if isinstance(axis, str) else axis for axis in tensor.shape)
            outputs[tensor.name] = np.zeros(shape if expected is None else expected.shape, tensor.dtype)
    engine.bind(inputs, outputs).run()
    known = {tensor.name: case.expected(tensor.name) for tensor in case.spec.outputs}
    return {name: (outputs[name], expected) for name, expected in known.items() if expected is not None}
