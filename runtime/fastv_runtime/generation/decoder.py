"""The language model as graphs linked by buffers: prefix -> select -> ... -> suffix, or one unpruned graph.

All graphs read and write one arena, wherever the backend has it; `memory/bindings.py` says which tensor is which
buffer. The prompt's embeddings and visual features are written straight into the first graph's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fastv_runtime.backends.base import Backend, Binding
from fastv_runtime.config.bundle import Manifest
from fastv_runtime.config.lengths import Capacity
from fastv_runtime.config.plan import numbered
from fastv_runtime.memory.arena import Arena
from fastv_runtime.memory.bindings import (
    TensorBindings,
    arena_layout,
    decoder_links,
    pruned_buffer,
    stage_buffer,
    step_lengths,
)
from fastv_runtime.memory.buffers import Buffer
from fastv_runtime.memory.layout import Region

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Timed = Callable[[str], AbstractContextManager[None]]
"""Called with a graph's name around its work, to time it."""
AskLength = Callable[["Float[np.ndarray, ' S']", "Bool[np.ndarray, ' S']"], int]
"""Given the scores of the rows that come to a cut, and which of them are visual, says how many are left."""


class Decoder(Protocol):
    """A language model with a prompt buffer and caches. One prompt at a time."""

    arena: Arena
    prompt: Buffer
    """Input embeddings [1, capacity, D]; the caller fills S rows before `prefill`, the first before `step`."""
    deepstack: list[Buffer]
    """[1, capacity, D], added after each of the first layers; the caller fills S rows before `prefill`, 0 for text."""

    def prefill(
        self,
        positions: Int[np.ndarray, "axes S"],
        prunable: Bool[np.ndarray, " S"],
        pruned: Sequence[int],
        timed: Timed,
        ask: AskLength | None = None,
        change: Float[np.ndarray, " S"] | None = None,
    ) -> list[Int[np.ndarray, " M"]]:
        """Run a prompt of S rows, of which each cut leaves as many as `pruned` says, or as `ask`, if it is given, says
        at that cut: of a plan whose cuts all read scores, which are then read back before rows are selected.

        change: the signal of that name, for a plan that has it; None: nothing came before anything.
        Returns the rows of the prompt that are left after each cut, ascending.
        """

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
    return LinkedDecoder(manifest, backend, capacity)


class LinkedDecoder:
    """Graphs on one arena: of each stage its layers, and before each but the first the graph that picks its rows.

    After pruning, the caches of a stage hold M + t entries for its own M, the first one's S + t; the position of a
    decoded token is the same in all: t past the prompt's last, as if nothing had been pruned.
    """

    def __init__(self, manifest: Manifest, backend: Backend, capacity: Capacity):
        plan = manifest.plan
        links = decoder_links(manifest.graphs, plan)
        self.arena = Arena(arena_layout(links, plan, capacity), backend.allocate)
        self.prompt = self.arena["prompt"]
        self.deepstack = [self.arena[f"deepstack_{layer}"] for layer in range(manifest.decoder.deepstack_layers)]
        self._stages = plan.stages
        self._parts = {name: _Part(link, backend, self.arena) for name, link in links.items()}
        self._one_row = step_lengths(plan)
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

    def prefill(
        self,
        positions: Int[np.ndarray, "axes S"],
        prunable: Bool[np.ndarray, " S"],
        pruned: Sequence[int],
        timed: Timed,
        ask: AskLength | None = None,
        change: Float[np.ndarray, " S"] | None = None,
    ) -> list[Int[np.ndarray, " M"]]:
        length = prunable.size
        self._write_positions(positions)
        if len(self._stages) > 1:
            self.arena["prunable"].leading((1, length)).write(prunable[None])
        if "change" in self.arena.layout:
            seen = prunable.astype(np.float32) if change is None else change
            self.arena["change"].leading((1, length)).write(seen[None])
        before: dict[str, int] = {}
        left: list[int] = []
        for stage, rows in zip(self._stages, (length, *pruned), strict=True):
            if stage.select is not None:
                with timed(stage.select):
                    rows = rows if ask is None else ask(*self._scored(stage.index, left[-1]))
                    self.arena[numbered("length", stage.index)].write(np.asarray([rows]))
                    self._parts[stage.select].bind(before | {stage.symbol: rows}).run()
            lengths = {stage.symbol: rows}
            left.append(rows)
            # An unsplit decoder is timed as what it is compared with.
            with timed("suffix" if stage.cut is None else stage.graph):
                self._parts[stage.graph].prefill(lengths, rows)
            before = lengths
        self._clear_first_rows()
        return self._left(length, left[1:])

    def _scored(self, cut: int, rows: int) -> tuple[Float[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
        """Scores of the rows that came to a cut, and which of them are visual. From a device, reading waits for it."""
        names = (stage_buffer("scores", cut - 1), pruned_buffer("prunable", cut - 1))
        scores, prunable = (self.arena[name].leading((1, rows)).array()[0] for name in names)
        return scores, prunable

    def _left(self, length: int, pruned: Sequence[int]) -> list[Int[np.ndarray, " M"]]:
        """Rows of the prompt after each cut. Asked for behind the last graph: from a device, reading waits for it."""
        left = [np.arange(length)]
        for index, rows in enumerate(pruned, 1):
            keep: np.ndarray = self.arena[numbered("keep", index)].leading((1, rows)).array()[0]
            left.append(left[-1][keep])
        return left[1:]

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
            self._steps.bindings = [part.bind(self._one_row, step=True) for part in parts]
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
