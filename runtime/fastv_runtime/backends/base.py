"""What executes graphs. An engine is a loaded graph; a binding is one with its buffers fixed, ready to run.

The help of commands reads the registry's entries: nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    from fastv_runtime.config.bundle import Bundle
    from fastv_runtime.memory.buffers import Buffer, Memory

Buffers: TypeAlias = "Mapping[str, np.ndarray | Buffer]"
"""By tensor names. Arrays are contiguous and on the host."""


class Binding(Protocol):
    """A graph bound to buffers; `run` reads the inputs and writes the outputs in place.

    On a device `run` may return before the work is done; reading a buffer waits for it.
    """

    def run(self) -> None: ...


class Engine(Protocol):
    """A loaded graph.

    An input and an output that share a buffer (a cache's past and present) are updated in place. An engine that cannot
    reach the memory of an array or buffer copies it in before a run, and out after it.
    """

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding: ...


class Backend(Protocol):
    """Where the graphs of one bundle run: memory, engines, and the order of their work."""

    name: str
    """What executes the graphs, and on what device."""
    notes: list[str]
    """What the caller should know of the way it works; it may grow."""

    def engine(self, graph: str) -> Engine:
        """The engine of a graph of the bundle."""

    def allocate(self, nbytes: int) -> Memory:
        """A zeroed block that the engines reach without a copy."""

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, which runs the same bindings at each call, in the form that is fastest to run again."""

    def synchronize(self) -> None:
        """Wait until all work is done."""


OpenBackend: TypeAlias = "Callable[[Bundle, str, int | None], Backend]"
"""(bundle, one of the entry's devices, threads of one operator or None) -> the backend with the bundle's graphs loaded.

Imports what runs the graphs only now. Raises UserError where that is missing or the device cannot be used.
"""


@dataclass(frozen=True)
class BackendEntry:
    """All that the registry, the command line and the version check know of a backend."""

    name: str
    """As the option `backend` takes it."""
    summary: str
    """For help texts."""
    devices: tuple[str, ...]
    """What it runs on, as the option `device` takes it; the first is the default."""
    extras: tuple[str, ...]
    """Extras of fastv-edge whose versions are checked before it is used."""
    open: OpenBackend
