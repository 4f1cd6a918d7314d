"""Run every graph of a bundle on its golden vectors: what transformers computed, on the device at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fastv_runtime.bundle import GOLDEN, Bundle, GraphSpec, TensorSpec
from fastv_runtime.engines import Engine

TOLERANCE = 1e-3
"""Largest difference allowed, relative to the largest value of the tensor.

fp32 graphs differ from transformers by the order of summation alone: 1e-6 per product, growing with depth. Hidden
states of real models have outliers in the thousands, hence relative.
"""


def self_test(bundle: Bundle, load: Callable[[str, GraphSpec], Engine]) -> dict[str, float]:
    """Largest relative difference per graph, over all its golden cases and outputs. `load` makes a graph's engine."""
    golden = _read_golden(bundle)
    worst: dict[str, float] = {}
    for name, spec in bundle.manifest.graphs.items():
        cases = {key.split("/")[1] for key in golden if key.startswith(f"{name}/")}
        if name == "select" and bundle.manifest.plan.ranker != "fastv":
            continue  # golden vectors hold the paper's choice
        engine = load(name, spec)
        worst[name] = max(_run_case(engine, spec, golden, f"{name}/{case}") for case in sorted(cases))
    return worst


def _read_golden(bundle: Bundle) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(bundle.file(GOLDEN))


def _run_case(engine: Engine, spec: GraphSpec, golden: Mapping[str, np.ndarray], case: str) -> float:
    inputs = {tensor.name: _input(tensor, golden, case) for tensor in spec.inputs}
    outputs = {}
    for tensor in spec.outputs:
        past = tensor.name.replace("present_", "past_")
        expected = golden.get(f"{case}/out/{tensor.name}")
        if past in inputs:
            outputs[tensor.name] = inputs[past]
        else:
            rows = inputs["hidden"].shape[1] if "hidden" in inputs else 0
            shape = tuple(rows if isinstance(axis, str) else axis for axis in tensor.shape)
            outputs[tensor.name] = np.zeros(shape if expected is None else expected.shape, tensor.dtype)
    engine.bind(inputs, outputs).run()
    return max(
        _difference(outputs[tensor.name], golden[f"{case}/out/{tensor.name}"])
        for tensor in spec.outputs
        if f"{case}/out/{tensor.name}" in golden
    )


def _input(tensor: TensorSpec, golden: Mapping[str, np.ndarray], case: str) -> np.ndarray:
    """A golden input; a cache is padded with zeros to the capacity that the graph has."""
    stored = golden.get(f"{case}/in/{tensor.name}")
    if stored is not None and not tensor.name.startswith("past_"):
        return np.ascontiguousarray(stored)
    buffer = np.zeros([int(axis) for axis in tensor.shape], tensor.dtype)
    if stored is not None:
        buffer[:, :, : stored.shape[2]] = stored
    return buffer


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    if actual.shape != expected.shape:  # a cache: only the rows that the case knows
        actual = actual[:, :, : expected.shape[2]]
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference / max(1e-6, np.abs(expected).max()))
