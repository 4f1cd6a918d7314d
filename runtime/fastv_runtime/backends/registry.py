"""Which backend runs a bundle, chosen by name, with one clear line where it cannot.

To add one: write its file, whose BACKEND says everything about it (`base.BackendEntry`), and list the file below.
The help of commands reads these files: they import neither numpy nor what runs the graphs, or inside functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fastv_runtime.backends.base import Backend, BackendEntry
from fastv_runtime.errors import UserError

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Bundle

_FILES = (
    "ort",
    "tensorrt.backend",
)
"""The first is the default."""
_ENTRIES: list[BackendEntry] = [import_module(f"fastv_runtime.backends.{file}").BACKEND for file in _FILES]
BACKENDS: dict[str, BackendEntry] = {entry.name: entry for entry in _ENTRIES}
"""Backends by name."""


def open_backend(bundle: Bundle, backend: str, device: str | None = None, *, threads: int | None = None) -> Backend:
    """The backend with the bundle's graphs loaded. `device` None: its default. Raises UserError.

    threads: of one operator, where the host runs any; None leaves it to the backend.
    """
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise UserError(f"`backend` {backend}: must be one of {', '.join(BACKENDS)}")
    entry = BACKENDS[backend]
    device = entry.devices[0] if device is None else device
    if device not in entry.devices:
        raise UserError(f"`device` {device}: backend {backend} runs on {' or '.join(entry.devices)}")
    return entry.open(bundle, device, threads)
