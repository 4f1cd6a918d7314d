"""The language model as graphs linked by buffers: prefix -> select -> suffix, or one unpruned graph.

All graphs read and write one arena, wherever the backend has it; `memory/bindings.py` says which tensor is which
buffer. The prompt's embeddings and visual features are written straight into the first graph's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fastv_runtime.backends.base import Backend, Binding
from fastv_runtime.config.bundle import Manifest
from fastv_runtime.config.lengths import Capacity
from fastv_runtime.memory.arena import Arena
from fastv_runtime.memory.bindings import STEP, TensorBindings, arena_layout, decoder_links
from fastv_runtime.memory.buffers import Buffer
from fastv_runtime.memory.layout import Region

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Stage = Callable[[str], AbstractContextManager[None]]
"""Called with a stage's name around the work of that stage, to time it."""


class Decoder(Protocol):
    """A language model with a prompt buffer and caches. One prompt at a time."""

    arena: Arena
    prompt: Buffer
    """Input embeddings [1, capacity, D]; the caller fills S rows before `prefill`, the first before `step`."""
    deepstack: list[Buffer]
    """[1, capacity, D], added after each of the first layers; the caller fills S rows before `prefill`, 0 for text."""

    def prefill(
        self, positions: Int[np.ndarray, "axes S"], prunable: Bool[np.ndarray, " S"], pruned: int, stage: Stage
    ) -> Int[np.ndarray, " M"]:
        """Run a prompt of S rows, kept down to `pruned` of them; returns the kept indices, ascending."""

    def step(self) -> None:
        """Run one decoded token at the next position. UserError, and nothing written, when a cache is full."""

    @property
    def token(self) -> int:
        """The likeliest token after the last row run: all that decoding greedily copies from a device."""

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        """Logits of the last row run."""


def load_decoder(manifest: Manifest, backend: Backend, capacity: Capacity) -> Decoder:
    """The decoder that the bundle's plan calls for."""
    if not manifest.plan.prunes:
        return DenseDecoder(manifest, backend, capacity)
    return SplitDecoder(manifest, backend, capacity)


class _Linked:
    """What both decoders have: parts on one arena, and the step that is run again and again."""

    def __init__(self, manifest: Manifest, backend: Backend, capacity: Capacity):
        links = decoder_links(manifest.graphs)
        self.arena = Arena(arena_layout(links, capacity), backend.allocate)
        self.prompt = self.arena["prompt"]
        self.deepstack = [self.arena[f"deepstack_{layer}"] for layer in range(manifest.decoder.deepstack_layers)]
        self._parts = {name: _Part(link, backend, self.arena) for name, link in links.items()}
        self._steps = _Steps()
        self._replay = backend.repeated(self._steps)  # a method of ours would be a circle, and outlive its last user
        self._step_position = self.arena["position_ids"].leading((*self.arena["position_ids"].shape[:-1], 1))
        self._position = 0

    @property
    def token(self) -> int:
        return int(self.arena["token"].array()[0, 0])

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        logits: np.ndarray = self.arena["logits"].array()[0, 0]
        return logits

    def _write_positions(self, positions: Int[np.ndarray, "axes S"]) -> None:
        buffer = self.arena["position_ids"]
        shape = (*buffer.shape[:-1], positions.shape[-1])
        buffer.leading(shape).write(positions.reshape(shape))
        self._position = int(positions.max()) + 1

    def _clear_first_rows(self) -> None:
        """Decoding reads the first row of each, and a decoded token has no visual features."""
        for buffer in self.deepstack:
            buffer.rows(0, 1).zero()

    def step(self) -> None:
        parts = [part for part in self._parts.values() if part.grows]
        for part in parts:
            part.check_room(1)
        self._step_position.write(np.full(self._step_position.shape, self._position))
        for part in parts:
            part.move_on()
        if not self._steps.bindings:
            self._steps.bindings = [part.bind(STEP, step=True) for part in parts]
        self._replay()
        for part in parts:
            part.length += 1
        self._position += 1


class _Steps:
    """The graphs of one decoded token, bound once and run again and again."""

    def __init__(self) -> None:
        self.bindings: list[Binding] = []

    def __call__(self) -> None:
        for binding in self.bindings:
            binding.run()


class DenseDecoder(_Linked):
    """The unsplit, unpruned model: graph `decoder`."""

    def prefill(
        self, positions: Int[np.ndarray, "axes S"], prunable: Bool[np.ndarray, " S"], pruned: int, stage: Stage
    ) -> Int[np.ndarray, " M"]:
        length = prunable.size
        self._write_positions(positions)
        with stage("suffix"):
            self._parts["decoder"].prefill({"S": length}, length)
        self._clear_first_rows()
        return np.arange(length)


class SplitDecoder(_Linked):
    """Graphs `prefix` (to layer K-1's attention, and scores), `select` (the gather) and `suffix` (the rest, the head).

    After pruning, the prefix's caches hold S + t entries and the suffix's M + t; the position of a decoded token is
    the same in both: t past the prompt's last, as if nothing had been pruned.
    """

    def prefill(
        self, positions: Int[np.ndarray, "axes S"], prunable: Bool[np.ndarray, " S"], pruned: int, stage: Stage
    ) -> Int[np.ndarray, " M"]:
        length = prunable.size
        self._write_positions(positions)
        self.arena["prunable"].leading((1, length)).write(prunable[None])
        self.arena["length"].write(np.asarray([pruned]))
        with stage("prefix"):
            self._parts["prefix"].prefill({"S": length}, length)
        with stage("select"):
            self._parts["select"].bind({"S": length, "M": pruned}).run()
        with stage("suffix"):
            self._parts["suffix"].prefill({"M": pruned}, pruned)
        self._clear_first_rows()
        kept: np.ndarray = self.arena["keep"].leading((1, pruned)).array()[0]
        return kept.copy()


class _Part:
    """One graph on the arena; `length` is how many tokens its caches hold."""

    def __init__(self, links: TensorBindings, backend: Backend, arena: Arena):
        self._links = links
        self._engine = backend.engine(links.graph)
        self._arena = arena
        self.grows = "write_index" in links.names
        self.length = 0

    def bind(self, lengths: Mapping[str, int], *, step: bool = False) -> Binding:
        """Bound to the arena, the dynamic axes cut to `lengths`."""
        layout = self._arena.layout
        return self._engine.bind(
            self._buffers(self._links.inputs(layout, lengths, step=step)),
            self._buffers(self._links.outputs(layout, lengths, step=step)),
        )

    def prefill(self, lengths: Mapping[str, int], rows: int) -> None:
        """Run a prompt of so many rows; the caches are written from their start."""
        self.length = 0
        self.check_room(rows)
        self.move_on()
        self.bind(lengths).run()
        self.length = rows

    def check_room(self, rows: int) -> None:
        """Raises UserError where so many more rows would not fit the caches."""
        self._links.check_room(self.length, rows)

    def move_on(self) -> None:
        """The next run appends its keys and values behind those that are there."""
        self._arena[self._links.names["write_index"]].write(np.asarray([self.length]))

    def _buffers(self, regions: Mapping[str, Region]) -> dict[str, Buffer]:
        return {name: self._arena.buffer(region) for name, region in regions.items()}
