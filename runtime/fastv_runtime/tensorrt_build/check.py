"""The self-test of engines: what they make of the bundle's golden vectors, on the device that they were built for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastv_runtime.backends.base import Binding, BufferedEngine, Buffers, Engine
from fastv_runtime.backends.tensorrt.module import TensorRt
from fastv_runtime.backends.tensorrt.receipt import SelfTest
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.verification.comparison import compare_engine
from fastv_runtime.verification.golden import read_golden

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
    results = list(compare_engine(name, lambda: load(name, path), bundle.manifest, read_golden(bundle)))
    if not results:
        return None
    worst = max(results, key=lambda result: result.share)
    return SelfTest(
        passed=all(result.passed for result in results),
        difference=worst.difference,
        limit=worst.limit,
        cosine=float(np.min([result.cosine for result in results])),
        max_error=float(np.max([result.max_error for result in results])),
    )


@dataclass(frozen=True)
class _Alone(BufferedEngine):
    """One engine and the backend that it needs, which live and die together."""

    backend: Any
    name: str

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding:
        bound: Binding = self.backend.engine(self.name).bind(inputs, outputs)
        return bound
