"""The language model as graphs linked by buffers: prefix -> select -> ... -> suffix, or one unpruned graph.

All graphs read and write one arena, wherever the backend has it; `memory/bindings.py` says which tensor is which
buffer. The prompt's embeddings and visual features are written straight into the first graph's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.backends.base import Backend, Binding
from fastv_runtime.config.bundle import Manifest
from fastv_runtime.config.lengths import Capacity
from fastv_runtime.config.plan import Stage, numbered
from fastv_runtime.generation.decoding.decoder import AskLength, Decoder, Timed
from fastv_runtime.generation.decoding.part import Layers, Part
from fastv_runtime.generation.decoding.reuse import (
    first_to_run,
    held_rows,
    same_rows,
    standing_rows,
    unchanged_rows,
)
from fastv_runtime.generation.decoding.saved import SavedDecoder, read_rows, write_rows
from fastv_runtime.memory.arena import Arena
from fastv_runtime.memory.bindings import (
    arena_layout,
    decoder_links,
    pruned_buffer,
    stage_buffer,
    step_buffer,
    step_lengths,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


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
        engines = {name: backend.engine(name) for name in links}
        own = {stage.graph: engines[stage.graph].own_caches() for stage in plan.stages}
        links = {name: link if own.get(name) is None else link.without_caches() for name, link in links.items()}
        self.arena = Arena(arena_layout(links, plan, capacity), backend.allocate)
        self.prompt = self.arena["prompt"]
        self.following = self.arena[step_buffer("prompt")]
        self.deepstack = [self.arena[f"deepstack_{layer}"] for layer in range(manifest.decoder.deepstack_layers)]
        self._plan, self._capacity, self._stages = plan, capacity, plan.stages
        self._selects = {name: Part(links[name], engines[name], self.arena) for name in links if name not in own}
        self._layers = {name: Layers(links[name], engines[name], self.arena, each) for name, each in own.items()}
        self._steps = _Steps()
        self._replay = backend.repeated(self._steps)  # a method of ours would be a circle, and outlive its last user
        self._position = 0
        self._given: list[np.ndarray] = []
        self._total = self._common = 0
        self.reused: list[int] = []

    @property
    def token(self) -> int:
        return int(self.arena["token"].array()[0, 0])

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        logits: np.ndarray = self.arena["logits"].array()[0, 0]
        return logits

    @property
    def _stepped(self) -> int:
        """Tokens run behind the last prompt."""
        return self._layers[self._stages[0].graph].length - self._total if self._given else 0

    def resume(self, common: int, total: int) -> int:
        self._common = min(common, self._total + self._stepped)
        stage = self._stages[0]
        return first_to_run(stage, self._common, self._total, total) if self._given else 0

    def prefill(
        self,
        positions: Int[np.ndarray, "axes S"],
        prunable: Bool[np.ndarray, " S"],
        pruned: Sequence[int],
        timed: Timed,
        ask: AskLength | None = None,
        change: Float[np.ndarray, " S"] | None = None,
        *,
        start: int = 0,
        stay: float | None = None,
    ) -> list[Int[np.ndarray, " M"]]:
        length = prunable.size
        held = held_rows(self._given, self._total, self._stepped) if start else None
        unchanged = self._common
        stored = [given.size for given in self._given]
        self._given, self._total, self._common, self.reused = [], 0, 0, []  # until all of it has run
        self._position = int(positions.max()) + 1
        run = _Run(positions, prunable, prunable.astype(np.float32) if change is None else change, stay)
        left = [np.arange(length)]
        self._write_rows(0, run, left[0])
        symbols: dict[str, int] = {}
        for stage, most in zip(self._stages, (length, *pruned), strict=True):
            rows, first = most, start
            if stage.select is not None:
                with timed(stage.select):
                    rows = most if ask is None else ask(*self._scored(stage.index, left[-1].size))
                    self.arena[numbered("length", stage.index)].write(np.asarray([rows]))
                    self._selects[stage.select].bind(symbols | {stage.symbol: rows}).run()
                    given, first = np.zeros(rows, np.int64), 0
                    if held is not None:
                        given, known = left[-1][self._kept(stage.index, rows)], held[stage.index]
                        known = known[known < unchanged]
                        given, same = self._reuse(stage, given, left[-1], known, stored[stage.index], run)
                        first = first_to_run(stage, same, stored[stage.index], given.size)
                        unchanged = unchanged_rows(given, same, unchanged)
                    left.append(given)
            symbols = {stage.symbol: left[-1].size}
            # An unsplit decoder is timed as what it is compared with.
            with timed("suffix" if stage.cut is None else stage.graph):
                self._prefill_stage(stage, first, left[-1], run)
            self.reused.append(first)
        if held is None:
            left = self._left([each.size for each in left])
        self._given, self._total = left, length
        return left[1:]

    def _prefill_stage(self, stage: Stage, first: int, given: np.ndarray, run: _Run) -> None:
        """Run the rows of a stage from `first` on. given: which of the prompt's they are, where `first` is not 0."""
        if first:
            self._write_positions(stage.index, run.positions[:, given[first:]])
        self._layers[stage.graph].prefill(stage.symbol, given.size, first)
        if first and stage.cut is not None:
            self._write_positions(stage.index, run.positions[:, given])  # of all rows, for the cut

    def _reuse(
        self, stage: Stage, chosen: np.ndarray, came: np.ndarray, held: np.ndarray, stored: int, run: _Run
    ) -> tuple[np.ndarray, int]:
        """Rows that a stage is given, and how many at their start are in its caches as they are now.

        chosen: what the cut left of `came`. held: rows in the caches that nothing before the stage has changed. stored:
        as for `first_to_run`.
        """
        standing = None
        # Features that are added behind the cut would have to be picked as well.
        if run.stay is not None and not any(name.startswith("pruned_deepstack_") for name in self.arena.layout):
            standing = standing_rows(chosen, came, held, run.prunable, run.stay)
        if standing is None or standing.size > self._capacity.rows[stage.index]:
            return chosen, same_rows(chosen, held)
        first = first_to_run(stage, held.size, stored, standing.size)
        new = standing.size - first
        if not np.array_equal(standing[first:], came[came.size - new :]):
            return chosen, 0
        # Rows that are run are the last both of what came and of what stays.
        states = self.arena[stage_buffer("hidden", stage.index - 1)].rows(came.size - new, came.size).array()
        self.arena[pruned_buffer("hidden", stage.index)].rows(first, standing.size).write(states)
        self._write_rows(stage.index, run, standing)
        return standing, held.size

    def _write_rows(self, index: int, run: _Run, rows: np.ndarray) -> None:
        """What is to be known of the rows that stage `index` is given."""
        self._write_positions(index, run.positions[:, rows])
        for name, values in (("prunable", run.prunable), ("change", run.change)):
            buffer = pruned_buffer(name, index)
            if buffer in self.arena.layout:
                self.arena[buffer].leading((1, rows.size)).write(values[rows][None])

    def _write_positions(self, index: int, positions: Int[np.ndarray, "axes S"]) -> None:
        buffer = self.arena[pruned_buffer("position_ids", index)]
        shape = (*buffer.shape[:-1], positions.shape[-1])
        buffer.leading(shape).write(positions.reshape(shape))

    def _scored(self, cut: int, rows: int) -> tuple[Float[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
        """Scores of the rows that came to a cut, and which of them are visual. From a device, reading waits for it."""
        names = (stage_buffer("scores", cut - 1), pruned_buffer("prunable", cut - 1))
        scores, prunable = (self.arena[name].leading((1, rows)).array()[0] for name in names)
        return scores, prunable

    def _kept(self, cut: int, rows: int) -> Int[np.ndarray, " M"]:
        """Which of the rows that came to a cut it left. From a device, reading waits for it."""
        kept: np.ndarray = self.arena[numbered("keep", cut)].leading((1, rows)).array()[0]
        return kept

    def _left(self, sizes: Sequence[int]) -> list[Int[np.ndarray, " M"]]:
        """Rows of the prompt that each stage was given. Asked for behind the last graph, which need not wait for it."""
        left = [np.arange(sizes[0])]
        for index, rows in enumerate(sizes[1:], 1):
            left.append(left[-1][self._kept(index, rows)])
        return left

    def step(self, rows: int = 1) -> None:
        parts = list(self._layers.values())
        for part in parts:
            part.check_room(rows)
        positions = self.arena[step_buffer("position_ids")]
        positions = positions.leading((*positions.shape[:-1], rows))
        positions.write(np.broadcast_to(self._position + np.arange(rows), positions.shape))
        for part in parts:
            part.move_on()
        if rows > 1:
            for part in parts:
                part.bind(step_lengths(self._plan, rows), step=True).run()
        else:
            if not self._steps.bindings:
                self._steps.bindings = [part.bind(step_lengths(self._plan), step=True) for part in parts]
            self._replay()
        for part in parts:
            part.length += rows
        self._position += rows

    def save(self) -> SavedDecoder:
        return SavedDecoder(
            given=tuple(self._given),
            lengths=tuple(part.length for part in self._layers.values()),
            caches=tuple(tuple(part.caches.read(part.length)) for part in self._layers.values()),
            states=tuple(read_rows(self.arena[name], rows, 1) for name, rows in self._states()),
        )

    def restore(self, saved: SavedDecoder) -> None:
        self._given = list(saved.given)
        self._total = saved.given[0].size if saved.given else 0
        for part, length, caches in zip(self._layers.values(), saved.lengths, saved.caches, strict=True):
            part.length = length
            part.caches.write(caches)
        for (name, _), states in zip(self._states(), saved.states, strict=True):
            write_rows(self.arena[name], states, 1)

    def _states(self) -> list[tuple[str, int]]:
        """Buffers of what cuts are given row by row, and how many rows: what a stage made for the cut behind it, and
        features of the prompt that are added behind the first one."""
        late = [f"deepstack_{layer}" for layer in range(len(self.deepstack))]
        of_prompt = [(name, self._total) for name in late if f"pruned_{name}" in self.arena.layout]
        return of_prompt + [
            (name, given.size)
            for stage, given in zip(self._stages, self._given, strict=False)
            if stage.cut is not None
            for name in (stage_buffer("hidden", stage.index), stage_buffer("key_norms", stage.index))
            if name in self.arena.layout
        ]


@dataclass(frozen=True)
class _Run:
    """One prompt as it is run: of its S rows, and how firmly cuts stand."""

    positions: Int[np.ndarray, "axes S"]
    prunable: Bool[np.ndarray, " S"]
    change: Float[np.ndarray, " S"]
    stay: float | None


class _Steps:
    """The graphs of one decoded token, bound once and run again and again."""

    def __init__(self) -> None:
        self.bindings: list[Binding] = []

    def __call__(self) -> None:
        for binding in self.bindings:
            binding.run()
