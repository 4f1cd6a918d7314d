"""One IR file, compiled. Graphs of layers keep their caches as states of an inference request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastv_runtime.backends.base import Buffers
from fastv_runtime.backends.openvino.requests import OpenVinoRequest, Tensors
from fastv_runtime.backends.openvino.states import BEAM, past_of
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.config.plan import Precision
from fastv_runtime.errors import UserError
from fastv_runtime.memory.bindings import is_of_caches

OPENVINO_TYPES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "bool": "boolean"}
"""OpenVINO's names of element types."""


class OpenVinoEngine:
    """A graph, compiled once, for any number of prompts. `compiled`: OpenVINO's CompiledModel of `path`."""

    def __init__(self, path: Path, compiled: Any, spec: GraphSpec, computes: Precision | None):
        self.computes = computes
        self._path, self._compiled, self._spec = path, compiled, spec
        self._caches = [tensor.name for tensor in spec.inputs if tensor.name.startswith("past_")]

    def check(self) -> None:
        """UserError unless the graph has the inputs, outputs and states that the manifest says."""
        for kind, tensors, ports in (
            ("input", self._spec.inputs, self._compiled.inputs),
            ("output", self._spec.outputs, self._compiled.outputs),
        ):
            want = {tensor.name: tensor for tensor in tensors if not is_of_caches(tensor.name)}
            have = {_name(port, want): port for port in ports if BEAM not in port.names}
            for name in dict.fromkeys([*want, *have]):
                if name not in have or name not in want or not _same(have[name], want[name].dtype, want[name].shape):
                    raise self._other(f"{kind} {name} is")
        states = {past_of(state.name)[0] for state in self._states()}
        if states != set(self._caches):
            raise self._other("its states are")

    def bind(self, inputs: Buffers, outputs: Buffers) -> OpenVinoBinding:
        return OpenVinoBinding(self._request, inputs, outputs)

    def own_caches(self) -> OpenVinoCaches | None:
        return OpenVinoCaches(self._new_request(), self._caches) if self._caches else None

    @cached_property
    def _request(self) -> OpenVinoRequest:
        """Of a graph without caches, which everybody shares: runs take turns."""
        return self._new_request()

    def _new_request(self) -> OpenVinoRequest:
        return OpenVinoRequest(self._path, self._compiled.create_infer_request())

    def _states(self) -> Sequence[Any]:
        states: Sequence[Any] = self._compiled.create_infer_request().query_state() if self._caches else []
        return states

    def _other(self, what: str) -> UserError:
        return UserError(f"{self._path}: {what} not as bundle.json has it: copy the bundle again, or export it again")


class OpenVinoBinding:
    """Arrays on a request, which other bindings use in between."""

    def __init__(self, request: OpenVinoRequest, inputs: Buffers, outputs: Buffers):
        self._request, self._inputs, self._outputs = request, Tensors.of(inputs), Tensors.of(outputs)

    def run(self) -> None:
        self._request.run(self._inputs, self._outputs)


class OpenVinoCaches:
    """States of one request: keys and values of one prompt. names: in the order of the graph's inputs."""

    def __init__(self, request: OpenVinoRequest, names: Sequence[str]):
        self._request = request
        self._names = list(names)
        self._states = [(*past_of(state.name), state) for state in request.states()]
        self._length = 0
        request.constants({BEAM: np.zeros(1, np.int32)})

    def bind(self, inputs: Buffers, outputs: Buffers) -> OpenVinoBinding:
        return _Appending(self, inputs, outputs)

    def keep(self, length: int) -> None:
        if length > self._length:
            raise ValueError(f"{length} keys are to be kept of {self._length}")
        if not length:  # whatever a run that failed has left
            for *_, state in self._states:
                state.reset()
            self._length = 0
        elif length < self._length:
            self.write(self.read(length))

    def read(self, length: int) -> list[np.ndarray]:
        held = {name: state for name, copied, state in self._states if not copied}
        return [np.array(held[name].state.data[:, :, :length]) for name in self._names]

    def write(self, caches: Sequence[np.ndarray]) -> None:
        self.keep(0)
        if not caches[0].shape[2]:
            return
        rows = dict(zip(self._names, caches, strict=True))
        for name, _, state in self._states:
            self._request.set_state(state, np.ascontiguousarray(rows[name]))
        self._length = caches[0].shape[2]

    def grow(self, rows: int) -> None:
        """A run has appended so many."""
        self._length += rows


class _Appending(OpenVinoBinding):
    """A binding of a graph with states."""

    def __init__(self, caches: OpenVinoCaches, inputs: Buffers, outputs: Buffers):
        super().__init__(caches._request, inputs, outputs)
        self._caches, self._rows = caches, inputs["hidden"].shape[1]

    def run(self) -> None:
        super().run()
        self._caches.grow(self._rows)


def _name(port: Any, known: Iterable[str]) -> str:
    """Of a port, which may have several names, the one that is known."""
    name: str = next((each for each in known if each in port.names), port.any_name)
    return name


def _same(port: Any, dtype: str, shape: Sequence[int | str]) -> bool:
    """Whether element types and fixed axes are the same."""
    found = port.partial_shape
    return (
        port.element_type.get_type_name() == OPENVINO_TYPES.get(dtype)
        and found.rank.is_static
        and len(found) == len(shape)
        and all(
            isinstance(wanted, str) or axis.is_dynamic or axis.get_length() == wanted
            for axis, wanted in zip(found, shape, strict=True)
        )
    )
