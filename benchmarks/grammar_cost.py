r"""What a grammar costs: answers with and without one, in turns, in one run.

    python benchmarks/grammar_cost.py DEMO.fastv REAL.fastv

Of each bundle a table of milliseconds a token after the first. `free`: no grammar, as many tokens as the answer by the
schema has. `schema`: JSON by a schema of four properties. `one by one`: the same, with each token that the schema
forces run by itself. Ratios are of one round, each to `free` of the same way to choose tokens, then their median: below
1 a token costs less than without a grammar. Also CPU time of the grammar alone: of its tokenizer, once a model; of its
matcher, once an answer; of masks and matching, a token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import numpy as np
from machine import machine
from rich.console import Console
from rich.progress import track

from fastv_runtime import Answer, Pipeline
from fastv_runtime.bench.turns import turns
from fastv_runtime.generation.calls import streaming
from fastv_runtime.generation.grammar import Grammar, GrammarMatcher, GrammarTokenizer
from fastv_runtime.generation.model import Model
from fastv_runtime.memory.bindings import STEP_ROWS

SCHEMA = {
    "type": "object",
    "properties": {
        "main_object": {"type": "string", "maxLength": 24},
        "color": {"enum": ["red", "green", "blue", "yellow", "black", "white"]},
        "position_in_image": {"enum": ["top left", "top right", "center", "bottom left", "bottom right"]},
        "number_of_objects": {"type": "integer", "minimum": 0, "maximum": 20},
    },
    "required": ["main_object", "color", "position_in_image", "number_of_objects"],
    "additionalProperties": False,
}
QUESTION = "Describe the image as JSON."
ANSWERS = 40
ARMS = ("free", "schema", "one by one")
WAYS: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"temperature": 1.0}}
console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for bundle in args.bundles:
        print(report(bundle, args.rounds, args.threads))


def report(bundle: Path, rounds: int, threads: int) -> str:
    """Markdown: what one bundle's answers cost."""
    image = np.random.default_rng(0).integers(0, 256, (168, 168, 3), dtype=np.uint8)
    with Pipeline.load(bundle, threads=threads) as pipeline:
        manifest = pipeline.bundle.manifest
        most = manifest.plan.max_new_tokens
        begin = process_time()
        tokenizer = _model(pipeline).grammars
        once = process_time() - begin
        runs: dict[tuple[str, str], list[_Run]] = {(way, arm): [] for way in WAYS for arm in ARMS}
        order = turns(ARMS, 0)
        for seed in track(range(rounds), bundle.name, console=console):
            for way, sampling in WAYS.items():
                options = sampling | ({"seed": seed} if sampling else {})
                by_schema = pipeline.generate(image, QUESTION, grammar=Grammar.json_schema(SCHEMA), max_new_tokens=most)
                for arm in next(order):
                    runs[way, arm].append(
                        _timed(pipeline, image, arm, options, len(by_schema.token_ids) if arm == "free" else most)
                    )
        lines = [
            f"{bundle.stem}: a vocabulary of {manifest.decoder.vocab_size} tokens, {rounds} rounds, {threads} threads, "
            f"{machine()['cpu']}",
            "",
            f"{_work(tokenizer)}; tokenizer, once: {1000 * once:.0f} ms",
            "",
            "| tokens | | ms a token | of free | calls of the graphs a token | mask, ms |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for (way, arm), found in runs.items():
            ratios = [run.ms / free.ms for run, free in zip(found, runs[way, "free"], strict=True)]
            masks = [run.mask_ms for run in found if run.masks]
            lines.append(
                f"| {way} | {arm} | {median(run.ms for run in found):.2f} | {median(ratios):.2f} | "
                f"{median(run.calls / run.tokens for run in found):.2f} | "
                f"{f'{median(masks):.3f}' if masks else ''} |"
            )
    return "\n".join(lines) + "\n"


@dataclass
class _Run:
    """One answer."""

    ms: float
    """A token, after the first."""
    tokens: int
    calls: int
    masks: int
    mask_ms: float
    """Of one."""


def _timed(pipeline: Pipeline, image: np.ndarray, arm: str, options: dict[str, Any], most: int) -> _Run:
    grammar = {"ignore_stop": True} if arm == "free" else {"grammar": Grammar.json_schema(SCHEMA)}
    with (
        _counted(type(pipeline.decoder), "step") as steps,
        _counted(GrammarMatcher, "allowed") as masks,
        patch.object(streaming, "STEP_ROWS", 1 if arm == "one by one" else STEP_ROWS),
    ):
        answer: Answer = pipeline.generate(image, QUESTION, max_new_tokens=most, **options, **grammar)
    mask = 1000 * sum(masks) / len(masks) if masks else 0.0
    return _Run(answer.timings_ms["decode_per_token"], len(answer.token_ids), len(steps), len(masks), mask)


@contextmanager
def _counted(owner: type, name: str) -> Iterator[list[float]]:
    """Inside, seconds of each call of a method."""
    method: Callable[..., Any] = getattr(owner, name)
    seconds: list[float] = []

    def timed(*args: Any, **options: Any) -> Any:
        begin = perf_counter()
        try:
            return method(*args, **options)
        finally:
            seconds.append(perf_counter() - begin)

    setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        setattr(owner, name, method)


def _work(tokenizer: GrammarTokenizer) -> str:
    """What the grammar alone takes of a processor, over answers of random logits: whatever else the machine is at."""
    grammar, random = Grammar.json_schema(SCHEMA), np.random.default_rng(0)
    started = seconds = 0.0
    tokens = 0
    for _ in range(ANSWERS):
        begin = process_time()
        matcher = tokenizer.matcher(grammar)
        started += process_time() - begin
        said: list[int] = []
        while not said or said[-1] not in tokenizer.stop:
            logits = random.normal(size=tokenizer.vocabulary).astype(np.float32)
            begin = process_time()
            said.append(int(np.where(matcher.allowed(), logits, -np.inf).argmax()))
            matcher.take(said[-1])
            if said[-1] not in tokenizer.stop:
                said += matcher.forced(1000)
            seconds += process_time() - begin
        tokens += len(said)
    return (
        f"CPU time: matcher, an answer: {1000 * started / ANSWERS:.2f} ms; masks and matching, a token: "
        f"{1000 * seconds / tokens:.3f} ms"
    )


def _model(pipeline: Pipeline) -> Model:
    return pipeline._slot.model


if __name__ == "__main__":
    main()
