"""What more slots cost and give, and what a step of several rows would: an upper bound of batched decode.

    python benchmarks/serving_slots.py NAME.fastv --slots 1 2 4 --rows 1 2 4 8 --out docs/benchmarks/serving_slots.json

Slots: as many clients as the most slots, each asking at once when its answer is there, of the scheduler itself. Every
number of slots has its turn in every round, in shuffled orders; ratios are taken within a round, then their median.

Rows: one decode step of N tokens of one conversation beside N steps of one token. A batch of N conversations multiplies
the same weights with as many rows, and has N caches to attend to where this step has one: it cannot be faster. This is
processor time of one thread, which does not count what else the machine is at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
from machine import machine
from PIL import Image

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.calls.settings import Settings, read_settings
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.model import Model
from fastv_runtime.generation.slot import Slot
from fastv_runtime.memory.bindings import STEP_ROWS
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import Job, Scheduler, Started, TextPiece

QUESTION = "What is in the picture?"


@dataclass
class Seen:
    """Times of one turn, in seconds."""

    took: float = 0.0
    cpu: float = 0.0
    """Of all threads of the process."""
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)
    """Between two tokens of one answer."""


def image(random: np.random.Generator) -> Image.Image:
    """Another one for each request, so that nothing is found in a cache."""
    return Image.fromarray(random.integers(0, 256, (336, 336, 3), dtype=np.uint8))


async def client(scheduler: Scheduler, settings: Settings, answers: int, seed: int, seen: Seen) -> None:
    random = np.random.default_rng(seed)
    for _ in range(answers):
        start = last = time.perf_counter()
        ticket = scheduler.submit(Job(GenerationInput([image(random)], [], text=QUESTION), settings))
        counted = 0
        async for event in ticket.events():
            now = time.perf_counter()
            if isinstance(event, TextPiece):
                (seen.each if counted else seen.first).append(now - (last if counted else start))
                counted += len(event.token_ids)
                last = now
            else:
                assert isinstance(event, Started) or counted == settings.limit, event
        seen.tokens += counted


def turn(model: Model, slots: int, clients: int, settings: Settings, answers: int, seed: int) -> Seen:
    scheduler, seen = Scheduler(model, slots=slots, cache_bytes=0, metrics=Metrics()), Seen()

    async def all_of_them() -> None:
        await asyncio.gather(*(client(scheduler, settings, answers, seed + each, seen) for each in range(clients)))

    start, cpu = time.perf_counter(), time.process_time()
    asyncio.run(all_of_them())
    seen.took, seen.cpu = time.perf_counter() - start, time.process_time() - cpu
    scheduler.stop(0)
    return seen


def by_slots(model: Model, slots: Sequence[int], rounds: int, answers: int, tokens: int) -> dict[str, Any]:
    settings = read_settings(model.manifest, max_new_tokens=tokens, ignore_stop=True)
    clients, order = max(slots), Random(0)
    turn(model, 1, 1, settings, 1, 0)  # warm
    seen: dict[int, list[Seen]] = {each: [] for each in slots}
    for number in range(rounds):
        for each in order.sample(list(slots), len(slots)):
            seen[each].append(turn(model, each, clients, settings, answers, 100 * number))
    rows = {}
    for each in slots:
        pairs = list(zip(seen[each], seen[slots[0]], strict=True))
        rows[str(each)] = {
            "tokens_per_s": round(median(one.tokens / one.took for one in seen[each]), 1),
            "cpu_ms_per_token": round(1000 * median(one.cpu / one.tokens for one in seen[each]), 2),
            "ttft_ms": round(1000 * median(value for one in seen[each] for value in one.first), 1),
            "ttft_p95_ms": round(1000 * float(np.percentile([v for one in seen[each] for v in one.first], 95)), 1),
            "per_token_ms": round(1000 * median(value for one in seen[each] for value in one.each), 2),
            "per_token_p95_ms": round(1000 * float(np.percentile([v for one in seen[each] for v in one.each], 95)), 2),
            "tokens_per_s_over_first": round(
                median((one.tokens / one.took) / (other.tokens / other.took) for one, other in pairs), 3
            ),
            "cpu_over_first": round(
                median((one.cpu / one.tokens) / (other.cpu / other.tokens) for one, other in pairs), 3
            ),
            "ttft_over_first": round(median(median(one.first) / median(other.first) for one, other in pairs), 3),
        }
    return {"clients": clients, "answers": answers * clients, "tokens": tokens, "slots": rows}


def by_rows(model: Model, rows: Sequence[int], rounds: int) -> dict[str, float]:
    """N steps of one row over a step of N rows, at the same place behind the same prompt. For one thread."""
    slot, clock = Slot(model), Clock()
    question = GenerationInput([image(np.random.default_rng(0))], [], text=QUESTION)
    settings = read_settings(model.manifest, ignore_stop=True, reuse=True)  # the prompt is read once
    prepared = model.prepare(question, clock)
    ids, order = np.arange(STEP_ROWS) % 50 + 10, Random(0)
    took: dict[tuple[int, bool], list[float]] = {}
    for _ in range(rounds):
        for count, together in order.sample([(count, way) for count in rows for way in (True, False)], 2 * len(rows)):
            slot.start(prepared, settings, clock)
            slot.embed(ids[:1])
            slot.decoder.step()
            if together:
                slot.embed(ids[:count])
            start = time.thread_time()
            if together:
                slot.decoder.step(count)
            else:
                for _ in range(count):
                    slot.decoder.step()
            took.setdefault((count, together), []).append(time.thread_time() - start)
    return {
        str(count): round(
            median(one / all_ for one, all_ in zip(took[count, False], took[count, True], strict=True)), 2
        )
        for count in rows
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--slots", type=int, nargs="*", default=[1, 2, 4], help="the first is what others are beside")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=3, help="of each client, in each turn")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = Model(Bundle.open(args.bundle), threads=args.threads)
    report: dict[str, Any] = {"machine": machine(), "threads": args.threads, "rounds": args.rounds}
    if args.slots:
        report["scheduler"] = by_slots(model, args.slots, args.rounds, args.answers, args.tokens)
    if args.rows:
        report["rows_together_faster_by"] = by_rows(model, args.rows, args.rounds)
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
