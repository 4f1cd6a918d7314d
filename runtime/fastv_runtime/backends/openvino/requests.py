"""An inference request: its tensors are arrays of ours, and what OpenVINO says of an error names the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastv_runtime.backends.base import Buffers
from fastv_runtime.errors import UserError
from fastv_runtime.memory.buffers import as_buffer


@dataclass(frozen=True)
class Tensors:
    """Arrays as OpenVINO takes them, without a copy: it does not keep alive what it is given."""

    arrays: Mapping[str, np.ndarray]
    tensors: Mapping[str, Any]

    @classmethod
    def of(cls, buffers: Buffers) -> Tensors:
        from openvino import Tensor

        arrays = {name: as_buffer(name, each).array() for name, each in buffers.items()}
        return cls(arrays, {name: Tensor(each, shared_memory=True) for name, each in arrays.items()})


class OpenVinoRequest:
    """One request of a compiled model, reused. `path`: of the model's file, for messages."""

    def __init__(self, path: Path, request: Any):
        self._path, self._request = path, request
        self._bound: Tensors | None = None
        self._constants: Tensors | None = None

    def constants(self, arrays: Buffers) -> None:
        """Inputs that never change."""
        self._constants = Tensors.of(arrays)
        for name, tensor in self._constants.tensors.items():
            self._request.set_tensor(name, tensor)

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """Read inputs, write outputs where they are."""
        with _named(self._path):
            if self._bound is not inputs:  # else they are in place from the last run
                self._bound = None
                for name, tensor in (*inputs.tensors.items(), *outputs.tensors.items()):
                    self._request.set_tensor(name, tensor)
                self._bound = inputs
            self._request.start_async()
            self._request.wait()

    def states(self) -> Sequence[Any]:
        states: Sequence[Any] = self._request.query_state()
        return states

    def set_state(self, state: Any, value: np.ndarray) -> None:
        """A copy: OpenVINO may keep what it is given."""
        from openvino import Tensor

        with _named(self._path):
            state.state = Tensor(value)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What OpenVINO finds wrong with a graph while it runs is one line that names the file."""
    try:
        yield
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{path}: OpenVINO cannot run this graph: {detail}") from error
