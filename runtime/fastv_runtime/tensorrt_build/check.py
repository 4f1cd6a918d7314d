"""The self-test of engines: what they make of the bundle's golden vectors, on the device that they were built for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastv_runtime.backends.base import Binding, Buffers, Engine
from fastv_runtime.backends.tensorrt.module import TensorRt
from fastv_runtime.backends.tensorrt.receipt import SelfTest
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.verification import difference, golden_cases, known_outputs, read_golden, tolerance

Load = Callable[[str, Path], Engine]
"""Makes the engine of a graph from its file."""


def tensorrt_loader(tensorrt: TensorRt) -> Load:
    """Loads engines with the TensorRT that built them."""
    from fastv_runtime.backends.cuda import Cuda
    from fastv_runtime.backends.tensorrt.engine import TrtBackend

    cuda = Cuda("rtx" if tensorrt.is_rtx else "trt")
    return lambda name, path: _Alone(TrtBackend(tensorrt.module, cuda, {name: path}), name)


def self_test_engine(bundle: Bundle, name: str, path: Path, load: Load) -> SelfTest | None:
    """Run an engine on all golden cases of its graph; None if there are none."""
    manifest = bundle.manifest
    spec = manifest.graphs[name]
    cases = golden_cases(name, spec, read_golden(bundle), manifest.plan)
    if not cases:
        return None
    engine = load(name, path)
    results = []
    for case in cases:
        for output, (actual, expected) in known_outputs(engine, case).items():
            weights = manifest.plan.weights
            rounded = weights is not None and weights.static and name in ("prefix", "suffix", "decoder")
            limit = tolerance(manifest.plan, spec, manifest.decoder, output, static=rounded)
            results.append(_compare(actual, expected, limit))
    worst = max(results, key=lambda result: np.nan_to_num(result.difference / result.limit, nan=np.inf))
    return SelfTest(
        passed=all(result.passed for result in results),
        difference=worst.difference,
        limit=worst.limit,
        cosine=float(np.min([result.cosine for result in results])),
        max_error=float(np.max([result.max_error for result in results])),
    )


@dataclass(frozen=True)
class _Alone:
    """One engine and the backend that it needs, which live and die together."""

    backend: Any
    name: str

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding:
        return self.backend.engine(self.name).bind(inputs, outputs)


def _compare(actual: np.ndarray, expected: np.ndarray, limit: float) -> SelfTest:
    relative = difference(actual, expected)
    if actual.shape != expected.shape:  # a cache, of which the case knows the first rows
        actual = actual[:, :, : expected.shape[2]]
    ours, theirs = actual.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    lengths = np.linalg.norm(ours) * np.linalg.norm(theirs)
    return SelfTest(
        passed=bool(relative <= limit),  # written so that a NaN fails
        difference=relative,
        limit=limit,
        cosine=float(ours @ theirs / lengths) if lengths else float(np.array_equal(ours, theirs)),
        max_error=float(np.abs(ours - theirs).max(initial=0.0)),
    )
