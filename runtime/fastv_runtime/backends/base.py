"""What executes graphs. An engine is a loaded graph; a binding is one with its buffers fixed, ready to run.

The help of commands reads the registry's entries: nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from fastv_runtime.config.bundle import Bundle
    from fastv_runtime.config.plan import DialectName, Precision
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

    computes: Precision | None
    """What kernels compute in whatever the graph says; None: in what it says."""

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding: ...

    def own_caches(self) -> Caches | None:
        """Empty caches for one more prompt, where the engine keeps them itself, and then bind on these; None where
        caches are buffers."""


class BufferedEngine:
    """What an engine says whose caches are buffers, and that computes in what its graph says."""

    computes: Precision | None = None

    def own_caches(self) -> None:
        return None


class Caches(Protocol):
    """Keys and values of one prompt in a graph of layers, wherever they are."""

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding:
        """As of an engine. Where the engine keeps caches itself, what the manifest lists as `past_*`, `present_*` and
        `write_index` is bound to nothing."""

    def keep(self, length: int) -> None:
        """The next run appends its rows behind the first `length` keys. What was behind these is forgotten."""

    def read(self, length: int) -> list[np.ndarray]:
        """The first `length` keys of each cache, [1, Hkv, length, Dh], in the order of the graph's inputs: copies."""

    def write(self, caches: Sequence[np.ndarray]) -> None:
        """Put back what was read, here or elsewhere."""


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


@dataclass(frozen=True)
class BackendOptions:
    """How a backend runs graphs."""

    device: str
    """One of the entry's."""
    threads: int | None = None
    """Of one operator, where the host runs any; None leaves it to the backend."""
    compute: str | None = None
    """One of the entry's `computes`; None leaves it to the backend."""
    model_cache: Path | None = None
    """Where compiled graphs are kept, and found again; of an entry with `caches_models`."""


OpenBackend: TypeAlias = "Callable[[Bundle, BackendOptions], Backend]"
"""The backend with a bundle's graphs loaded.

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
    dialects: tuple[DialectName, ...]
    """Bundles whose graphs are of these run on it where nobody says otherwise."""
    extras: tuple[str, ...]
    """Extras of fastv-edge whose versions are checked before it is used."""
    open: OpenBackend
    computes: tuple[str, ...] = ()
    """What its kernels may be told to compute in, as the option `compute` takes it; none: in what graphs say."""
    caches_models: bool = False
    """Whether it can keep what it compiles: the option `model_cache`."""
