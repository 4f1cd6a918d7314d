"""Golden cases of a bundle: inputs of a graph, and what transformers computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastv_runtime.backends.base import Caches, Engine
from fastv_runtime.config.bundle import GOLDEN, Bundle, GraphSpec
from fastv_runtime.memory.bindings import is_of_caches


def read_golden(bundle: Bundle) -> dict[str, np.ndarray]:
    """The bundle's golden vectors."""
    from safetensors.numpy import load_file

    return load_file(bundle.file(GOLDEN))


@dataclass(frozen=True)
class Case:
    """One run of a graph: golden inputs as the graph takes them, and what transformers computed from them."""

    name: str
    spec: GraphSpec
    golden: Mapping[str, np.ndarray]

    def inputs(self) -> dict[str, np.ndarray]:
        """All inputs by name."""
        return {tensor.name: self.input(tensor.name) for tensor in self.spec.inputs}

    def input(self, name: str) -> np.ndarray:
        """One input in the graph's element type; what is of a cache is padded with zeros to the graph's capacity."""
        tensor = next(tensor for tensor in self.spec.inputs if tensor.name == name)
        stored = self._past(name) if name.startswith("past_") else self.golden[f"{self.name}/in/{name}"]
        # An axis with a name has the length of the case.
        shape = [axis if isinstance(axis, int) else stored.shape[place] for place, axis in enumerate(tensor.shape)]
        padded = np.zeros(shape, tensor.dtype)
        padded[tuple(slice(length) for length in stored.shape)] = stored
        return padded

    def expected(self, name: str) -> np.ndarray | None:
        """What transformers computed for an output; None if the case does not say."""
        return self.golden.get(f"{self.name}/out/{name}")

    def _past(self, name: str) -> np.ndarray:
        """Rows of a cache before the run: of those that `decode` is given, as many as are behind this one's first."""
        graph, case = self.name.split("/")
        (filled,) = self.golden[f"{self.name}/in/write_index"]
        if case == "prefill":
            return self.golden[f"{self.name}/out/{name.replace('past_', 'present_')}"][:, :, :0]
        return self.golden[f"{graph}/decode/in/{name}"][:, :, : int(filled)]


def golden_cases(graph: str, spec: GraphSpec, golden: Mapping[str, np.ndarray]) -> list[Case]:
    """The cases of one graph; none where engines may differ. `golden`: arrays by their names in the bundle's file."""
    names = sorted({"/".join(key.split("/")[:2]) for key in golden if key.startswith(f"{graph}/")})
    return [Case(name, spec, golden) for name in names]


def known_outputs(engine: Engine, case: Case) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What an engine computes and what transformers did, for each output that the case knows."""
    inputs, caches = case.inputs(), engine.own_caches()
    outputs = {}
    for tensor in case.spec.outputs:
        past = tensor.name.replace("present_", "past_")
        expected = case.expected(tensor.name)
        if past in inputs:
            outputs[tensor.name] = inputs[past]
        else:
            rows = inputs["hidden"].shape[1] if "hidden" in inputs else 0
            known_shape = (rows,) * len(tensor.shape) if expected is None else expected.shape
            shape = [axis if isinstance(axis, int) else known_shape[at] for at, axis in enumerate(tensor.shape)]
            outputs[tensor.name] = np.zeros(shape, tensor.dtype)
    if caches is None:
        engine.bind(inputs, outputs).run()
    else:
        _run_with(caches, inputs, outputs)
    known = {tensor.name: case.expected(tensor.name) for tensor in case.spec.outputs}
    return {name: (outputs[name], expected) for name, expected in known.items() if expected is not None}


def _run_with(caches: Caches, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
    """On caches that an engine keeps itself; what it then has is among the outputs."""
    before = int(inputs["write_index"][0])
    after = before + inputs["hidden"].shape[1]
    pasts = [name for name in inputs if name.startswith("past_")]
    caches.write([inputs[name][:, :, :before] for name in pasts])
    caches.bind(_without_caches(inputs), _without_caches(outputs)).run()
    for name, rows in zip(pasts, caches.read(after), strict=True):
        outputs[name.replace("past_", "present_")] = rows


def _without_caches(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: each for name, each in tensors.items() if not is_of_caches(name)}
