"""A backend that computes nothing and leaves every output as it is: shows what a backend takes."""

from __future__ import annotations

from collections.abc import Callable

from fastv_runtime.backends.base import Backend, BackendEntry, Buffers
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.memory.buffers import HostMemory, Memory


class NullBackend:
    """The graphs of a bundle, none of which does anything."""

    def __init__(self) -> None:
        self.name = "null cpu"
        self.notes = ["nothing was computed"]

    def engine(self, graph: str) -> NullEngine:
        return NullEngine()

    def allocate(self, nbytes: int) -> Memory:
        return HostMemory.allocate(nbytes)

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def synchronize(self) -> None:
        pass


class NullEngine:
    """One graph."""

    def bind(self, inputs: Buffers, outputs: Buffers) -> NullBinding:
        return NullBinding()


class NullBinding:
    """A run of it."""

    def run(self) -> None:
        pass


def _open(bundle: Bundle, device: str, threads: int | None) -> Backend:
    return NullBackend()


BACKEND = BackendEntry(name="null", summary="nothing at all", devices=("cpu",), extras=(), open=_open)
