"""Runs of a graph that is executed chunk after chunk: what they are given, and what is alive between two chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

LIMIT = 64 << 20
"""Bytes of weights that a chunk holds. What ONNX Runtime adds is as much again in fp32, for a half-precision graph."""

Read = Callable[[int], None]
"""Called with the number of bytes of weights read since its last call."""


class ChunkedRun:
    """One run of a graph, with the values that are alive between two chunks.

    input: makes an input of the graph when the first chunk asks for it. output: is given what chunks compute, under
    its name in the graph, outputs of the graph among it.
    """

    def __init__(self, input: Callable[[str], np.ndarray], output: Callable[[str, np.ndarray], None]):
        self._input, self._output = input, output
        self._values: dict[str, np.ndarray] = {}

    def take(self, name: str) -> np.ndarray:
        """A value that a chunk needs."""
        if name not in self._values:
            self._values[name] = self._input(name)
        return self._values[name]

    def put(self, name: str, value: np.ndarray) -> None:
        """A value that a chunk computed."""
        self._output(name, value)
        self._values[name] = value

    def drop(self, names: Iterable[str]) -> None:
        """Forget values that are not needed any more."""
        for name in names:
            self._values.pop(name, None)
