"""Where the time of a decoded token goes: each call of a graph, and what the runtime does between them.

    python benchmarks/decode_profile.py --markdown docs/benchmarks/decode_profile.md

The unsplit decoder of `decoder.py`, that of one cut and that of two, on ONNX Runtime's CPU provider; all three hold
the prompt that `decoder.py` has. Runners take turns token by token, in shuffled orders (`turns.py`). Of every token the
clock is read around each graph's run, so that a row is wall time of `InferenceSession.run_with_iobinding` and all that
it waits for. `between` is the rest of a step: positions and write indices. Embedding the token and choosing the next
are no part of a step.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from decoder import DECODED, SPLIT, TEXT, TWO, UNSPLIT, VISUAL, prepare
from machine import machine

from fastv_runtime.backends.base import Backend, Binding, BufferedEngine, Buffers, Engine
from fastv_runtime.backends.registry import open_backend
from fastv_runtime.bench.turns import orders, turns
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.lengths import capacity, pruned_lengths
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.decoding.linked import LinkedDecoder

Times = dict[str, list[float]]
"""Milliseconds by graph, `between` and `step`, a value a token."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="prompts of 24 tokens (default: 12)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="checkpoint and bundles of decoder.py's --cache")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        bundles = prepare(folder)
        runners = {name: Stepper(bundles[name], args.threads) for name in (UNSPLIT, SPLIT, TWO)}
        found = measure(runners, args.rounds)
    text = markdown(runners, found, args.rounds, args.threads)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    print(text)


class TimedBackend:
    """A backend whose graphs' runs are timed, into `times` by graph: seconds."""

    def __init__(self, backend: Backend):
        self.name, self.notes = backend.name, backend.notes
        self.allocate, self.repeated, self.synchronize = backend.allocate, backend.repeated, backend.synchronize
        self.times: dict[str, float] = {}
        self._backend = backend

    def engine(self, graph: str) -> Engine:
        return TimedEngine(graph, self._backend.engine(graph), self.times)


class TimedEngine(BufferedEngine):
    def __init__(self, graph: str, engine: Engine, times: dict[str, float]):
        self._graph, self._engine, self._times = graph, engine, times

    def bind(self, inputs: Buffers, outputs: Buffers) -> Binding:
        return TimedBinding(self._graph, self._engine.bind(inputs, outputs), self._times)


class TimedBinding:
    def __init__(self, graph: str, binding: Binding, times: dict[str, float]):
        self._graph, self._binding, self._times = graph, binding, times

    def run(self) -> None:
        start = perf_counter()
        self._binding.run()
        self._times[self._graph] = perf_counter() - start


class Stepper:
    """A bundle's decoder, without its tower: a prompt of noise, and tokens after it."""

    def __init__(self, path: Path, threads: int):
        bundle = Bundle.open(path)
        self.manifest = bundle.manifest
        self.backend = TimedBackend(open_backend(bundle, "ort", None, threads=threads))
        room = capacity(self.manifest.plan)
        self.decoder = LinkedDecoder(self.manifest, self.backend, room)
        self.embedding = bundle.embedding()
        self.pruned = pruned_lengths(self.manifest.plan, TEXT, VISUAL, "exact", room)

    def prompt(self) -> None:
        """Prefill; what was decoded before is forgotten."""
        rows = TEXT + VISUAL
        ids = np.random.default_rng(0).integers(len(self.embedding), size=rows)
        self.decoder.prompt.rows(0, rows).write(self.embedding[ids])
        positions = np.tile(np.arange(rows), (self.manifest.decoder.position_axes, 1))
        self.decoder.prefill(positions, np.arange(rows) < VISUAL, self.pruned, Clock())

    def step(self) -> dict[str, float]:
        """One token. Milliseconds."""
        token = self.decoder.token
        self.decoder.following.rows(0, 1).write(self.embedding[[token]])
        start = perf_counter()
        self.decoder.step()
        whole = perf_counter() - start
        graphs = {name: self.backend.times[name] for name in self.manifest.plan.decoder_graphs}
        seconds = graphs | {"between": whole - sum(graphs.values()), "step": whole}
        return {name: 1000 * value for name, value in seconds.items()}


def measure(runners: Mapping[str, Stepper], rounds: int) -> dict[str, Times]:
    """All runners, interleaved token by token; each prompt's first token, which binds, is not kept."""
    found: dict[str, Times] = {name: defaultdict(list) for name in runners}
    order = turns(list(runners), seed=0)
    for _ in range(rounds):
        for runner in runners.values():
            runner.prompt()
            runner.step()
        for names in islice(order, DECODED):
            for name in names:
                for part, ms in runners[name].step().items():
                    found[name][part].append(ms)
    return found


def markdown(runners: Mapping[str, Stepper], found: Mapping[str, Times], rounds: int, threads: int) -> str:
    """The profile as a page for docs/benchmarks."""
    whole = median(found[UNSPLIT]["step"])
    lines = [
        "# Where a decoded token's time goes",
        "",
        "Made by `benchmarks/decode_profile.py`: the random 0.5B decoder of [decoder.md](decoder.md) in fp32, after "
        f"{TEXT + VISUAL} tokens of which {VISUAL} are visual. Medians of {rounds} x {DECODED} tokens, {threads} "
        f"threads; runners take turns token by token, in shuffled orders of {len(orders(len(runners)))}. `between` is "
        "what the runtime does beside the graphs' runs: positions and write indices. `all` is the whole step, and its "
        "share the median of its time over the unsplit decoder's in the same turn.",
        "",
        ", ".join(f"{name} {value}" for name, value in machine().items()),
        "",
        "| plan | part | layers | rows in its cache | ms a token | share |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, runner in runners.items():
        plan, times = runner.manifest.plan, found[name]
        step = median(times["step"])
        rows = (TEXT + VISUAL, *runner.pruned)
        layers = runner.manifest.decoder.num_hidden_layers
        for stage, cached in zip(plan.stages, rows, strict=True):
            ms = median(times[stage.graph])
            count = len(plan.layers(stage.graph, layers))
            lines.append(f"| {name} | {stage.graph} | {count} | {cached} | {ms:.2f} | {ms / step:.1%} |")
        between = median(times["between"])
        lines.append(f"| {name} | between | | | {between:.3f} | {between / step:.2%} |")
        paired = median(a / b for a, b in zip(times["step"], found[UNSPLIT]["step"], strict=True))
        lines.append(f"| {name} | all | {layers} | | {step:.2f} | {paired:.3f} of unsplit |")
    lines += ["", f"An unsplit token takes {whole:.2f} ms.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
