"""One allocation that holds every buffer a pipeline needs, made once and reused for every prompt."""

from __future__ import annotations

from collections.abc import Callable

from fastv_runtime.memory.buffers import Buffer, Memory
from fastv_runtime.memory.layout import Layout, Region


class Arena:
    """Named buffers inside one zeroed block of memory, which `allocate` makes from its size in bytes."""

    def __init__(self, layout: Layout, allocate: Callable[[int], Memory]):
        self.layout = layout
        self._memory = allocate(layout.nbytes)

    def __getitem__(self, name: str) -> Buffer:
        return self.buffer(self.layout[name])

    def buffer(self, region: Region) -> Buffer:
        """A region of the arena's layout, or a part of one."""
        return Buffer(self._memory, region)
