"""Which backend runs a bundle, chosen by name, with one clear line where it cannot.

To add one: write its file, whose BACKEND says everything about it (`base.BackendEntry`), and list the file below.
The help of commands reads these files: they import neither numpy nor what runs the graphs, or inside functions.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING

from fastv_runtime.backends.base import Backend, BackendEntry, BackendOptions
from fastv_runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from fastv_runtime.config.bundle import Bundle

_FILES = (
    "ort",
    "openvino.backend",
    "tensorrt.backend",
)
"""The first is the default."""
_ENTRIES: list[BackendEntry] = [import_module(f"fastv_runtime.backends.{file}").BACKEND for file in _FILES]
BACKENDS: dict[str, BackendEntry] = {entry.name: entry for entry in _ENTRIES}
"""Backends by name."""
DEFAULT = _ENTRIES[0].name
OWN = "own"
"""In reports: each bundle ran on the backend that its graphs are for."""


def open_backend(
    bundle: Bundle,
    backend: str | None = None,
    device: str | None = None,
    *,
    threads: int | None = None,
    compute: str | None = None,
    model_cache: Path | None = None,
) -> Backend:
    """The backend with the bundle's graphs loaded. Raises UserError.

    backend: None means the one that the bundle's graphs are for. device: None means its default. threads:
    of one operator, where the host runs any; None leaves it to the backend. compute: what its kernels compute in,
    likewise. model_cache: a directory where compiled graphs are kept, and found by whoever loads them next: what is in
    there is trusted.
    """
    if backend is None:
        backend = backend_for({graph.dialect for graph in bundle.manifest.graphs.values()})
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise UserError(f"`backend` {backend}: must be one of {', '.join(BACKENDS)}")
    entry = BACKENDS[backend]
    device = entry.devices[0] if device is None else device
    if device not in entry.devices:
        raise UserError(f"`device` {device}: backend {backend} runs on {' or '.join(entry.devices)}")
    if compute is not None and compute not in entry.computes:
        what = f"computes in {' or '.join(entry.computes)}" if entry.computes else "is told by its graphs: leave it out"
        raise UserError(f"`compute` {compute}: backend {backend} {what}")
    if model_cache is not None and not entry.caches_models:
        raise UserError(f"`model_cache` {model_cache}: backend {backend} has nothing to keep there: leave it out")
    return entry.open(bundle, BackendOptions(device, threads, compute, model_cache))


def backend_for(dialects: Collection[str]) -> str:
    """The backend that graphs of these dialects are for."""
    return next((entry.name for entry in _ENTRIES if set(entry.dialects) & set(dialects)), DEFAULT)
