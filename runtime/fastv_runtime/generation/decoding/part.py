"""One graph of a decoder on the arena."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fastv_runtime.backends.base import Backend, Binding
from fastv_runtime.memory.arena import Arena
from fastv_runtime.memory.bindings import TensorBindings
from fastv_runtime.memory.buffers import Buffer
from fastv_runtime.memory.layout import Region


class Part:
    """`length` is how many tokens the graph's caches hold."""

    def __init__(self, links: TensorBindings, backend: Backend, arena: Arena):
        self._links = links
        self._engine = backend.engine(links.graph)
        self._arena = arena
        self.grows = "write_index" in links.names
        self.length = 0

    @property
    def caches(self) -> list[Buffer]:
        """Keys and values of each layer, [1, Hkv, C, Dh]."""
        return [self._arena[name] for name in self._links.cache_buffers]

    def bind(self, lengths: Mapping[str, int], *, step: bool = False, first: int = 0) -> Binding:
        """Bound to the arena, the dynamic axes cut to `lengths`; of rows, those from `first` on."""
        layout = self._arena.layout
        return self._engine.bind(
            self._buffers(self._links.inputs(layout, lengths, step=step, first=first)),
            self._buffers(self._links.outputs(layout, lengths, step=step, first=first)),
        )

    def prefill(self, symbol: str, rows: int, first: int = 0) -> None:
        """Run rows `first` to `rows` - 1 of a prompt; what the caches hold of those before stays.

        symbol: of the axis of rows.
        """
        self.length = first
        self.check_room(rows - first)
        self.move_on()
        self.bind({symbol: rows - first}, first=first).run()
        self.length = rows

    def check_room(self, rows: int) -> None:
        """Raises UserError where so many more rows would not fit the caches."""
        self._links.check_room(self.length, rows)

    def move_on(self) -> None:
        """The next run appends its keys and values behind those that are there."""
        self._arena[self._links.names["write_index"]].write(np.asarray([self.length]))

    def _buffers(self, regions: Mapping[str, Region]) -> dict[str, Buffer]:
        return {name: self._arena.buffer(region) for name, region in regions.items()}
