"""Caches of one graph and one prompt in buffers that the graph is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastv_runtime.backends.base import Binding, Buffers, Engine
from fastv_runtime.generation.decoding.saved import read_rows, write_rows
from fastv_runtime.memory.buffers import Buffer

KEYS = 2
"""The axis of keys in a cache [1, Hkv, C, Dh]."""


class BufferedCaches:
    """Past and present share a buffer that the caller binds; the graph reads in another where its rows go."""

    def __init__(self, engine: Engine, caches: Sequence[Buffer], write_index: Buffer):
        self._engine, self._caches, self._write_index = engine, caches, write_index

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding:
        return self._engine.bind(inputs, outputs)

    def keep(self, length: int) -> None:
        self._write_index.write(np.asarray([length]))

    def read(self, length: int) -> list[np.ndarray]:
        return [read_rows(cache, length, KEYS) for cache in self._caches]

    def write(self, caches: Sequence[np.ndarray]) -> None:
        for buffer, rows in zip(self._caches, caches, strict=True):
            write_rows(buffer, rows, KEYS)
