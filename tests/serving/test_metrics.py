"""What Prometheus is told, against what the clients of a scheduler count and time themselves."""

from __future__ import annotations

import sys
import time

import pytest
from prometheus_client import REGISTRY, generate_latest

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.clock import STAGES
from fastv_runtime.generation.model import Model
from fastv_runtime.serving.metrics import OUTCOMES, Metrics
from fastv_runtime.serving.scheduler import Finished, QueueFullError, Scheduler, Started, StoppingError
from tests.serving.scheduled import PATIENCE_S, Gate, before_each_step, job, results, serving, until


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


def outcomes(metrics: Metrics) -> dict[str, float]:
    counts = {each: value(metrics, "fastv_requests_total", outcome=each) for each in OUTCOMES}
    return {name: count for name, count in counts.items() if count}


def test_tokens_are_those_of_the_answers(tiny_model: Model) -> None:
    metrics = Metrics()
    with serving(tiny_model, slots=2, metrics=metrics) as scheduler:
        events = results(
            scheduler.submit(job(tiny_model, 9)),
            scheduler.submit(job(tiny_model, 5, image=1, keep=0.25)),
            scheduler.submit(job(tiny_model, 1, image=2)),
        )
    answers = [each[-1].answer for each in events if isinstance(each[-1], Finished)]
    assert value(metrics, "fastv_generated_tokens_total") == 9 + 5 + 1
    assert value(metrics, "fastv_prompt_tokens_total") == sum(each.prompt_tokens for each in answers)
    assert value(metrics, "fastv_visual_tokens_total") == 3 * 144
    assert value(metrics, "fastv_kept_visual_tokens_total") == 72 + 36 + 72
    assert value(metrics, "fastv_reused_tokens_total") == sum(each.reused_tokens for each in answers)
    assert outcomes(metrics) == {"length": 3}
    assert value(metrics, "fastv_time_to_first_token_seconds_count") == 3
    assert value(metrics, "fastv_time_per_token_seconds_count") == 8 + 4
    assert value(metrics, "fastv_queue_wait_seconds_count") == 3
    for stage in STAGES:
        assert value(metrics, "fastv_stage_seconds_count", stage=stage) == 3
        seconds = sum(each.timings_ms[stage] for each in answers) / 1000
        assert value(metrics, "fastv_stage_seconds_sum", stage=stage) == pytest.approx(seconds)


def test_times_are_those_that_a_client_waits(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot, two jobs of 5 tokens, 20 ms a step."""
    before_each_step(monkeypatch, lambda loop: time.sleep(0.02))
    metrics = Metrics()
    with serving(tiny_model, metrics=metrics) as scheduler:
        start = time.monotonic()
        first, second = results(*(scheduler.submit(job(tiny_model, 5)) for _ in range(2)))
        whole = time.monotonic() - start
    assert 0.1 <= value(metrics, "fastv_queue_wait_seconds_sum") <= whole  # of the second, all of the first
    assert 0.14 <= value(metrics, "fastv_time_to_first_token_seconds_sum") <= 2 * whole
    assert 0.16 <= value(metrics, "fastv_time_per_token_seconds_sum") <= whole
    shares = [each[-1].answer.timings_ms["ttft"] / 1000 for each in (first, second) if isinstance(each[-1], Finished)]
    assert max(shares) < value(metrics, "fastv_time_to_first_token_seconds_sum") - 0.1, "an answer's own has no waiting"


def test_gauges_follow_the_queue(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, metrics = Gate(monkeypatch), Metrics()
    with serving(tiny_model, slots=2, waiting=3, metrics=metrics) as scheduler:
        tickets = [scheduler.submit(job(tiny_model, 3)) for _ in range(5)]
        assert gate.reached.wait(PATIENCE_S)
        now = (value(metrics, "fastv_running_requests"), value(metrics, "fastv_waiting_requests"))
        assert now == (1, 4) == (scheduler.running, scheduler.waiting)
        tickets[4].cancel()
        assert value(metrics, "fastv_waiting_requests") == 3
        gate.open.set()
        results(*tickets)
    assert value(metrics, "fastv_running_requests") == value(metrics, "fastv_waiting_requests") == 0


def test_every_way_to_end_is_counted(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(loop: TokenLoop) -> None:
        if loop.limit == 7:
            raise RuntimeError("a fault")
        if loop.limit == 40:
            loop.stop = frozenset(range(100_000))  # whatever comes
        time.sleep(0.02 if loop.limit == 64 else 0)

    before_each_step(monkeypatch, step)
    metrics = Metrics()
    scheduler = Scheduler(tiny_model, waiting=0, metrics=metrics)
    results(scheduler.submit(job(tiny_model, 3)))
    results(scheduler.submit(job(tiny_model, 40)))
    results(scheduler.submit(job(tiny_model, 7)))
    results(scheduler.submit(job(tiny_model, 64, deadline_s=0.2)))
    results(scheduler.submit(job(tiny_model, 3, text=" ")))  # what no model can be asked
    long = scheduler.submit(job(tiny_model, 64))
    until(lambda: scheduler.running == 1)
    with pytest.raises(QueueFullError):
        scheduler.submit(job(tiny_model, 3))
    long.cancel()
    until(lambda: scheduler.running == 0)
    scheduler.stop(1)
    with pytest.raises(StoppingError):
        scheduler.submit(job(tiny_model, 3))
    assert outcomes(metrics) == {"stop": 1, "length": 1, "failed": 1, "deadline": 1, "refused": 3, "cancelled": 1}


def test_a_registry_of_its_own_whose_names_end_in_units() -> None:
    one, other = Metrics(), Metrics()
    one.ended("stop")
    assert outcomes(other) == {}
    names = {family.name for family in one.registry.collect()}
    assert not names & {family.name for family in REGISTRY.collect()}
    assert all(name.startswith("fastv_") for name in names)
    assert all(name.endswith(("_tokens", "_seconds", "_requests", "_hits", "_misses")) for name in names), names
    text = generate_latest(one.registry).decode()
    assert 'fastv_requests_total{outcome="stop"} 1.0' in text
    assert 'fastv_requests_total{outcome="cancelled"} 0.0' in text, "a series is there before its first count"


def test_a_step_of_several_tokens_is_shared_by_them() -> None:
    metrics = Metrics()
    metrics.first_tokens(3, 0.5)
    metrics.more_tokens(4, 0.2)
    assert value(metrics, "fastv_generated_tokens_total") == 7
    assert value(metrics, "fastv_time_per_token_seconds_count") == 4
    assert value(metrics, "fastv_time_per_token_seconds_sum") == pytest.approx(0.2)


def test_without_prometheus_client_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UserError, match=r"prometheus-client is not installed: pip install -e '\.\[serve\]'"):
        Metrics()


def test_what_a_reader_sees_first_has_no_times_yet(tiny_model: Model) -> None:
    with serving(tiny_model) as scheduler:
        (events,) = results(scheduler.submit(job(tiny_model, 4)))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[0].answer.timings_ms == {}
    assert events[-1].answer.timings_ms["decode_per_token"] > 0
