"""One graph of a decoder on the arena."""

from __future__ import annotations

from collections.abc import Mapping

from fastv_runtime.backends.base import Binding, Caches, Engine
from fastv_runtime.generation.decoding.caches import BufferedCaches
from fastv_runtime.memory.arena import Arena
from fastv_runtime.memory.bindings import TensorBindings
from fastv_runtime.memory.buffers import Buffer
from fastv_runtime.memory.layout import Region


class Part:
    """A graph without layers: a select."""

    def __init__(self, links: TensorBindings, engine: Engine, arena: Arena):
        self._links, self._arena = links, arena
        self._runs: Engine | Caches = engine

    def bind(self, lengths: Mapping[str, int], *, step: bool = False, first: int = 0) -> Binding:
        """Bound to the arena, the dynamic axes cut to `lengths`; of rows, those from `first` on."""
        layout = self._arena.layout
        return self._runs.bind(
            self._buffers(self._links.inputs(layout, lengths, step=step, first=first)),
            self._buffers(self._links.outputs(layout, lengths, step=step, first=first)),
        )

    def _buffers(self, regions: Mapping[str, Region]) -> dict[str, Buffer]:
        return {name: self._arena.buffer(region) for name, region in regions.items()}


class Layers(Part):
    """A graph of layers. `length` is how many tokens its caches hold. own: as the engine has them."""

    def __init__(self, links: TensorBindings, engine: Engine, arena: Arena, own: Caches | None):
        super().__init__(links, engine, arena)
        self.caches = own or BufferedCaches(
            engine, [arena[name] for name in links.cache_buffers], arena[links.names["write_index"]]
        )
        self._runs = self.caches
        self.length = 0

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
        self.caches.keep(self.length)
