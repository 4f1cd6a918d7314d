"""Rounds are interleaved, warm-up apart; who cannot answer is named and left alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from fastv_runtime.bench.machine.energy import Counter as EnergyCounter
from fastv_runtime.bench.measure import RunnerFailure, measure
from fastv_runtime.bench.models import Round
from fastv_runtime.bench.protocol import Request
from fastv_runtime.bench.workloads import Workload
from tests.runtime.bench.runners import WORKLOAD, Told, refusing, turn


def test_none_is_always_behind_the_same_other() -> None:
    """Whoever follows another finds the caches full of that one's weights."""
    asked: list[str] = []
    runners = [Told(name, turn, asked) for name in "abcd"]
    steps = list(measure(runners, [WORKLOAD], rounds=7, warmup=1))
    rounds = [asked[start : start + 4] for start in range(0, len(asked), 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    followed = Counter(pair for each in rounds for pair in pairwise(each))
    assert len(followed) == 12 and set(followed.values()) == {2}
    indices = [step.index for step in steps if isinstance(step, Round)]
    assert indices == [index for index in range(-1, 7) for _ in range(4)]


def test_every_workload_of_a_round_comes_before_the_next_round() -> None:
    other = Workload("text alone", Request(images=(), prompt="What?", new_tokens=2))
    steps = measure([Told("a", turn), Told("b", turn)], [WORKLOAD, other], rounds=2, warmup=0)
    seen = [(step.index, step.workload) for step in steps if isinstance(step, Round)]
    assert seen == sorted(seen, key=lambda each: each[0])
    assert {name for index, name in seen[:4]} == {WORKLOAD.name, other.name}


def test_one_that_refuses_is_asked_once() -> None:
    asked: list[str] = []
    runners = [Told("a", turn, asked), Told("b", refusing("its plan supports less"), asked)]
    steps = list(measure(runners, [WORKLOAD], rounds=3, warmup=1))
    assert asked.count("b") == 1
    assert [step for step in steps if isinstance(step, RunnerFailure)] == [
        RunnerFailure("b", WORKLOAD.name, "its plan supports less")
    ]


def test_energy_is_counted_turn_by_turn() -> None:
    readings = iter([5.0, 7.0, 9.5, 1.0, 2.0])
    meter = EnergyCounter("a counter that wraps at 10", lambda: next(readings), limit=10.0)
    steps = list(measure([Told("a", turn)], [WORKLOAD], rounds=2, warmup=0, meter=meter))
    assert [step.joules for step in steps if isinstance(step, Round)] == [2.5, 1.0]
