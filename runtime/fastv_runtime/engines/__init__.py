"""What executes a graph. An engine is a loaded graph; a binding is one with its buffers fixed, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Binding(Protocol):
    """A graph bound to buffers; `run` reads the inputs and writes the outputs in place."""

    def run(self) -> None: ...


class Engine(Protocol):
    """A loaded graph. Buffers are contiguous arrays that must outlive the binding.

    An input and an output that share a buffer (a cache's past and present) are updated in place.
    """

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Binding: ...
