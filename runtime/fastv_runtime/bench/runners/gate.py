"""No figure without a passed self-test: the engines at hand on the bundle's golden vectors."""

from __future__ import annotations

import numpy as np

from fastv_runtime.backends.base import Backend
from fastv_runtime.bench.protocol import Refused
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.verification import difference, golden_cases, known_outputs, read_golden, tolerance

FEW_BITS = 0.25
"""Largest difference where weights have few bits: kernels then round activations as they please, which nothing bounds.
On the demo model that comes to 0.01 (int8) and 0.04 (int4); a graph that computes something else is off by 1 and
more."""


def pass_self_test(bundle: Bundle, backend: Backend) -> dict[str, float]:
    """Largest difference from transformers per graph. Raises Refused for an engine that differs by more than rounding.

    A graph without golden cases (one that chooses at random) is not in the result.
    """
    manifest = bundle.manifest
    golden = read_golden(bundle)
    worst: dict[str, float] = {}
    for name, spec in manifest.graphs.items():
        for case in golden_cases(name, spec, golden, manifest.plan):
            for output, (actual, expected) in known_outputs(backend.engine(name), case).items():
                found = difference(actual, expected)
                limit = tolerance(manifest.plan, spec, manifest.decoder, output)
                if (weights := manifest.plan.weights) is not None:
                    static = tolerance(manifest.plan, spec, manifest.decoder, output, static=True)
                    limit = max(limit, static if weights.floating else FEW_BITS)
                if not found <= limit:  # written so that a NaN fails
                    raise Refused(
                        f"{name} fails its self-test on this device: {output} differs from transformers by {found:.1e} "
                        f"where rounding explains {limit:.1e}"
                    )
                worst[name] = float(np.maximum(worst.get(name, 0.0), found))
    return worst
