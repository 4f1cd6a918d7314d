"""Each runner alone in a process of its own, once: what memory it needs, and whether it passes its self-test.

Memory of one process that holds several runners would tell nothing of any; and a bundle that does not fit, or
fails its self-test, shows before anything is timed.
"""

from __future__ import annotations

import sys

from fastv_runtime.bench.models import MemoryFigures
from fastv_runtime.bench.protocol import Request
from fastv_runtime.bench.runners.bundle import BackendChoice
from fastv_runtime.bench.runners.child import Child
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.cost import cache_bytes, tokens_per_layer
from fastv_runtime.config.lengths import capacity
from fastv_runtime.tensorrt_build.preflight import weight_bytes


def measure_memory(choice: BackendChoice, bundle: Bundle, request: Request) -> MemoryFigures | None:
    """Memory of a bundle that answers one request: the largest of those to come. None where the system does not say.

    Raises Refused where the bundle cannot be loaded, fails its self-test or cannot answer.
    """
    child = Child([sys.executable, "-m", "fastv_runtime.bench.runners.serve", choice.model_dump_json()])
    try:
        turn = child.run(request)
    finally:
        child.close()
    if turn.peak_memory is None or child.base_memory is None:
        return None
    weights = sum(weight_bytes(bundle.manifest, name) for name in bundle.manifest.graphs)
    caches = allocated_caches(bundle)
    return MemoryFigures(
        weights=weights,
        caches=caches,
        libraries=child.base_memory,
        process=turn.peak_memory,
        workspace=max(0, turn.peak_memory - weights - caches - child.base_memory),
    )


def allocated_caches(bundle: Bundle) -> int:
    """Keys and values, room for new tokens included."""
    manifest = bundle.manifest
    room = capacity(manifest.plan)
    rows = tokens_per_layer(manifest.decoder, manifest.plan.cut_layers, room.keys)
    return cache_bytes(manifest.decoder, rows, manifest.plan.precision)
