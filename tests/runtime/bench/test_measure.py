"""Rounds are interleaved, warm-up apart; who cannot answer is named and left alone."""

from __future__ import annotations

from fastv_runtime.bench.machine.energy import Counter
from fastv_runtime.bench.measure import RunnerFailure, measure
from fastv_runtime.bench.models import Round
from fastv_runtime.bench.protocol import Request
from fastv_runtime.bench.workloads import Workload
from tests.runtime.bench.runners import WORKLOAD, Told, refusing, turn


def test_who_begins_goes_round() -> None:
    asked: list[str] = []
    runners = [Told(name, turn, asked) for name in "abc"]
    steps = list(measure(runners, [WORKLOAD], rounds=3, warmup=1))
    assert "".join(asked) == "cab" + "abc" + "bca" + "cab"
    assert [step.index for step in steps if isinstance(step, Round)] == [-1] * 3 + [0] * 3 + [1] * 3 + [2] * 3


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
    meter = Counter("a counter that wraps at 10", lambda: next(readings), limit=10.0)
    steps = list(measure([Told("a", turn)], [WORKLOAD], rounds=2, warmup=0, meter=meter))
    assert [step.joules for step in steps if isinstance(step, Round)] == [2.5, 1.0]
