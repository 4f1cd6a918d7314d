"""The language model as graphs linked by buffers: prefix -> select -> suffix, or one unpruned graph.

All graphs read and write one arena. A cache's past and present are one buffer, so decoding appends in place; the
prompt's embeddings and image features are written straight into the first graph's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from fastv_runtime.arena import Arena, leading
from fastv_runtime.bundle import GraphSpec, Manifest
from fastv_runtime.engines import Binding, Engine
from fastv_runtime.lengths import Capacity
from fastv_runtime.schema import TensorSpec

MAX_POSITION_AXES = 3

Stage = Callable[[str], AbstractContextManager[None]]
"""Called with a stage's name around the work of that stage, to time it."""


class Decoder(Protocol):
    """A language model with a prompt buffer and caches. One prompt at a time."""

    arena: Arena
    prompt: Float[np.ndarray, "1 capacity D"]
    """Input embeddings; the caller fills the first S rows before `prefill`, the first row before `step`."""
    deepstack: list[Float[np.ndarray, "1 capacity D"]]
    """What is added after each of the first layers; the caller fills S rows before `prefill`, zero for text."""

    def prefill(
        self, positions: Int[np.ndarray, "axes S"], prunable: Bool[np.ndarray, " S"], pruned: int, stage: Stage
    ) -> Int[np.ndarray, " M"]:
        """Run a prompt of S rows, kept down to `pruned` of them; returns the kept indices, ascending."""

    def step(self) -> None:
        """Run one decoded token at the next position."""

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        """Logits of the last row run."""


def load_decoder(manifest: Manifest, engines: Mapping[str, Engine], capacity: Capacity) -> Decoder:
    """The decoder that the bundle's plan calls for."""
    if manifest.plan.layer is None:
        return DenseDecoder(manifest, engines, capacity)
    return SplitDecoder(manifest, engines, capacity)


class DenseDecoder:
    """The unsplit, unpruned model: graph `decoder`."""

    def __init__(self, manifest: Manifest, engines: Mapping[str, Engine], capacity: Capacity):
        spec = manifest.graphs["decoder"]
        links = {
            "hidden": "prompt",
            "position_ids": "position_ids",
            "write_index": "write_index",
            "logits": "logits",
            **_deepstack_links(spec),
            **_cache_links("decoder", spec),
        }
        self.arena = Arena(_buffers([(spec, links)], {"S": capacity.prompt}))
        self._part = _Part(engines["decoder"], spec, self.arena, links)
        self.prompt = self.arena["prompt"]
        self.deepstack = _deepstack(self.arena, manifest)
        self._length = 0
        self._position = 0

    def prefill(
        self, positions: Int[np.ndarray, "axes S"], prunable: Bool[np.ndarray, " S"], pruned: int, stage: Stage
    ) -> Int[np.ndarray, " M"]:
        self._length, self._position = prunable.size, int(positions.max()) + 1
        leading(self.arena["position_ids"], positions.shape)[...] = positions
        with stage("suffix"):
            self._part.prefill({"S": self._length})
        _clear_first_rows(self.deepstack)
        return np.arange(self._length)

    def step(self) -> None:
        self._part.step(self._length, self._position)
        self._length += 1
        self._position += 1

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        return self.arena["logits"][0, 0]


class SplitDecoder:
    """Graphs `prefix` (layers 0..K-1 and scores), `select` (the gather) and `suffix` (layers K.. and the head).

    After pruning, the prefix's caches hold S + t entries and the suffix's M + t; the position of a decoded token is
    the same in both: t past the prompt's last, as if nothing had been pruned.
    """

    def __init__(self, manifest: Manifest, engines: Mapping[str, Engine], capacity: Capacity):
        prefix, select, suffix = (manifest.graphs[name] for name in ("prefix", "select", "suffix"))
        prefix_links = {
            "hidden": "prompt",
            "position_ids": "position_ids",
            "write_index": "prefix.write_index",
            "hidden_out": "hidden",
            "scores": "scores",
            **_deepstack_links(prefix),
            **_cache_links("prefix", prefix),
        }
        # select reads and writes buffers of its own tensors' names.
        select_links = {tensor.name: tensor.name for tensor in (*select.inputs, *select.outputs)}
        suffix_links = {
            "hidden": "pruned_hidden",
            "position_ids": "pruned_position_ids",
            "write_index": "suffix.write_index",
            "logits": "logits",
            **_deepstack_links(suffix, "pruned_"),
            **_cache_links("suffix", suffix),
        }
        self.arena = Arena(
            _buffers(
                [(prefix, prefix_links), (select, select_links), (suffix, suffix_links)],
                {"S": capacity.prompt, "M": capacity.pruned},
            )
        )
        self._prefix = _Part(engines["prefix"], prefix, self.arena, prefix_links)
        self._select = _Part(engines["select"], select, self.arena, select_links)
        self._suffix = _Part(engines["suffix"], suffix, self.arena, suffix_links)
        self.prompt = self.arena["prompt"]
        self.deepstack = _deepstack(self.arena, manifest)
        self._pruned_deepstack = [self.arena[name] for name in _deepstack_links(suffix, "pruned_").values()]
        self._length = 0
        self._pruned = 0
        self._position = 0

    def prefill(
        self, positions: Int[np.ndarray, "axes S"], prunable: Bool[np.ndarray, " S"], pruned: int, stage: Stage
    ) -> Int[np.ndarray, " M"]:
        length = prunable.size
        self._length, self._pruned, self._position = length, pruned, int(positions.max()) + 1
        leading(self.arena["position_ids"], positions.shape)[...] = positions
        self.arena["prunable"][0, :length] = prunable
        self.arena["length"][0] = pruned
        with stage("prefix"):
            self._prefix.prefill({"S": length})
        with stage("select"):
            self._select.run({"S": length, "M": pruned})
        with stage("suffix"):
            self._suffix.prefill({"M": pruned})
        _clear_first_rows([*self.deepstack, *self._pruned_deepstack])
        return self.arena["keep"][0, :pruned].copy()

    def step(self) -> None:
        arena = self.arena
        self._prefix.step(self._length, self._position)
        # One row needs no selection: it moves on as it is.
        arena["pruned_hidden"][0, 0] = arena["hidden"][0, 0]
        self._suffix.step(self._pruned, self._position)
        self._length += 1
        self._pruned += 1
        self._position += 1

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        return self.arena["logits"][0, 0]


class _Part:
    """One graph on the arena: `links` say which buffer each of its tensors is."""

    def __init__(self, engine: Engine, spec: GraphSpec, arena: Arena, links: Mapping[str, str]):
        self._engine = engine
        self._spec = spec
        self._arena = arena
        self._links = links
        self._step: Binding | None = None

    def run(self, lengths: Mapping[str, int]) -> None:
        """Run with the dynamic axes cut to `lengths`."""
        self._bind(lengths).run()

    def prefill(self, lengths: Mapping[str, int]) -> None:
        """Run a prompt; the cache is written from its start."""
        self._arena[self._links["write_index"]][0] = 0
        self.run(lengths)

    def step(self, write_index: int, position: int) -> None:
        """Run one row at a position; its keys and values are appended at `write_index`.

        Bound once: its shapes never change.
        """
        if self._step is None:
            self._step = self._bind({"S": 1, "M": 1})
        self._arena[self._links["write_index"]][0] = write_index
        self._arena[self._links["position_ids"]].reshape(-1)[:MAX_POSITION_AXES] = position
        self._step.run()

    def _bind(self, lengths: Mapping[str, int]) -> Binding:
        def views(tensors: tuple[TensorSpec, ...]) -> dict[str, np.ndarray]:
            return {tensor.name: self._view(tensor, lengths) for tensor in tensors}

        return self._engine.bind(views(self._spec.inputs), views(self._spec.outputs))

    def _view(self, tensor: TensorSpec, lengths: Mapping[str, int]) -> np.ndarray:
        shape = tuple(lengths[axis] if isinstance(axis, str) else axis for axis in tensor.shape)
        return leading(self._arena[self._links[tensor.name]], shape)


def _deepstack_links(spec: GraphSpec, prefix: str = "") -> dict[str, str]:
    """Deepstack inputs of a graph: the prompt's buffers, or those that `select` wrote."""
    return {tensor.name: prefix + tensor.name for tensor in spec.inputs if tensor.name.startswith("deepstack_")}


def _deepstack(arena: Arena, manifest: Manifest) -> list[np.ndarray]:
    return [arena[f"deepstack_{layer}"] for layer in range(manifest.decoder.deepstack_layers)]


def _clear_first_rows(buffers: list[np.ndarray]) -> None:
    """Decoding reads the first row of each, and a decoded token has no visual features."""
    for buffer in buffers:
        buffer[0, 0] = 0


def _cache_links(graph: str, spec: GraphSpec) -> dict[str, str]:
    """Past and present of one layer's keys (or values) are one buffer: the graph appends to it in place."""
    return {
        tensor.name: f"{graph}.{tensor.name.split('_', 1)[1]}"
        for tensor in (*spec.inputs, *spec.outputs)
        if tensor.name.startswith(("past_", "present_"))
    }


def _buffers(
    graphs: list[tuple[GraphSpec, dict[str, str]]], capacities: Mapping[str, int]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every buffer that the linked tensors need, dynamic axes at their capacity."""
    return {
        links[tensor.name]: (
            tensor.dtype,
            tuple(capacities[axis] if isinstance(axis, str) else axis for axis in tensor.shape),
        )
        for spec, links in graphs
        for tensor in (*spec.inputs, *spec.outputs)
    }
