"""A backend of the runtime that holds no graph in memory: what runs a bundle's towers during an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastv_export.execution.chunked import run_chunked
from fastv_export.execution.runs import ChunkedRun, Read
from fastv_runtime.backends.base import Binding, BufferedEngine, Buffers
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.memory.buffers import HostMemory, Memory, as_buffer


class Chunked:
    """Graphs of the bundle in `folder`. read, exact: as `run_chunked` has them."""

    name = "chunk by chunk"

    def __init__(self, folder: Path, graphs: Mapping[str, GraphSpec], read: Read, *, exact: bool):
        self.notes: list[str] = []
        self._folder, self._graphs, self._read, self._exact = folder, graphs, read, exact

    def engine(self, graph: str) -> _Engine:
        return _Engine(self._folder / self._graphs[graph].file, self._read, self._exact)

    def allocate(self, nbytes: int) -> Memory:
        return HostMemory.allocate(nbytes)

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def synchronize(self) -> None:
        """Nothing runs on."""


@dataclass(frozen=True)
class _Engine(BufferedEngine):
    path: Path
    read: Read
    exact: bool

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding:
        return _Binding(self, inputs, outputs)


@dataclass(frozen=True)
class _Binding:
    engine: _Engine
    inputs: Buffers
    outputs: Buffers

    def run(self) -> None:
        arrays = {name: as_buffer(name, array).array() for name, array in self.inputs.items()}

        def put(name: str, value: np.ndarray) -> None:
            if name in self.outputs:
                as_buffer(name, self.outputs[name]).write(value)

        run_chunked(self.engine.path, [ChunkedRun(arrays.__getitem__, put)], self.engine.read, exact=self.engine.exact)
