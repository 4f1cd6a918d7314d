"""No figure without a passed self-test: the engines at hand on the bundle's golden vectors."""

from __future__ import annotations

from functools import partial

from fastv_runtime.backends.base import Backend
from fastv_runtime.bench.protocol import Refused
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.verification.comparison import compare_engine
from fastv_runtime.verification.golden import read_golden


def pass_self_test(bundle: Bundle, backend: Backend) -> dict[str, float]:
    """Largest difference from transformers per graph. Raises Refused for an engine that differs by more than rounding.

    A graph without golden cases (one that chooses at random) is not in the result.
    """
    golden = read_golden(bundle)
    worst: dict[str, float] = {}
    for name in bundle.manifest.graphs:
        for found in compare_engine(name, partial(backend.engine, name), bundle.manifest, golden):
            if not found.passed:
                raise Refused(
                    f"{name} fails its self-test on this device: {found.output} differs from transformers by "
                    f"{found.difference:.1e} where rounding explains {found.limit:.1e}"
                )
            worst[name] = max(worst.get(name, 0.0), found.difference)
    return worst
