"""Many clients, few slots, one thread: everybody gets their own answer, and what goes wrong is one job's alone."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import pytest

from fastv_runtime import Pipeline
from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.model import Model, PreparedPrompt
from fastv_runtime.generation.slot import Slot
from fastv_runtime.serving.scheduler import (
    Failed,
    Finished,
    QueueFullError,
    Started,
    Ticket,
)
from tests.serving.scheduled import (
    PATIENCE_S,
    QUESTION,
    Gate,
    alone,
    before_each_step,
    job,
    results,
    serving,
    tokens_of,
    until,
)

ASKED = [
    {"tokens": 9, "image": 0},
    {"tokens": 17, "image": 1},
    {"tokens": 30, "image": 2, "keep": 0.2},
    {"tokens": 5, "image": 3, "text": "Where?"},
    {"tokens": 21, "image": 0, "temperature": 1.5, "seed": 3},
    {"tokens": 11, "image": 1, "length": "fixed"},
    {"tokens": 26, "image": 2, "temperature": 0.8, "top_k": 20, "seed": 4},
]


@pytest.mark.parametrize("slots", [1, 3])
def test_everybody_gets_the_tokens_that_they_get_alone(tiny_model: Model, tiny_pipeline: Pipeline, slots: int) -> None:
    want = [alone(tiny_pipeline, **each) for each in ASKED]  # type: ignore[arg-type]
    assert len({tuple(each[:5]) for each in want}) == len(ASKED), "answers must tell the jobs apart"
    with serving(tiny_model, slots=slots) as scheduler:
        events = results(*(scheduler.submit(job(tiny_model, **each)) for each in ASKED))  # type: ignore[arg-type]
    assert [tokens_of(each) for each in events] == want
    for each in events:
        first = each[0]
        assert isinstance(first, Started)
        assert (first.answer.prompt_tokens, first.answer.visual_tokens) > (144, 143)
        assert (first.answer.text, len(first.shown)) == ("", 1)


def test_answers_take_turns_and_wait_for_one_prefill_at_most(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []
    starts = Slot.start

    def start(slot: Slot, *arguments: object) -> TokenLoop:
        order.append(0)
        return starts(slot, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Slot, "start", start)
    before_each_step(monkeypatch, lambda loop: order.append(loop.limit))
    with serving(tiny_model, slots=3) as scheduler:
        results(*(scheduler.submit(job(tiny_model, tokens)) for tokens in (20, 21, 22, 23)))
    assert order.count(0) == 4
    for name in (20, 21, 22, 23):
        steps = [place for place, each in enumerate(order) if each == name]
        for one, next_one in pairwise(steps):
            between = order[one + 1 : next_one]
            assert all(between.count(each) <= 1 for each in (0, 20, 21, 22, 23)), between


def test_jobs_that_are_ready_start_in_order_of_arrival(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, started = Gate(monkeypatch), []
    before_each_step(monkeypatch, lambda loop: loop.answer.token_ids or started.append(loop.limit))
    with serving(tiny_model) as scheduler:
        tickets = [scheduler.submit(job(tiny_model, 4))]
        assert gate.reached.wait(PATIENCE_S)
        tickets += [scheduler.submit(job(tiny_model, tokens)) for tokens in (9, 3, 7, 5)]
        until(lambda: all(each.ready for each in scheduler._queue._waiting.values()))
        gate.open.set()
        results(*tickets)
    assert started == [4, 9, 3, 7, 5]


def test_a_question_that_takes_long_to_prepare_holds_nobody_up(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, go_on = Model.prepare, threading.Event()

    def slow(model: Model, question: GenerationInput, clock: Clock) -> PreparedPrompt:
        assert question.text == QUESTION or go_on.wait(PATIENCE_S)
        return prepare(model, question, clock)

    monkeypatch.setattr(Model, "prepare", slow)
    with serving(tiny_model) as scheduler:
        late = scheduler.submit(job(tiny_model, 3, text="A long clip?"))
        assert len(tokens_of(results(scheduler.submit(job(tiny_model, 8)))[0])) == 8
        assert (scheduler.running, scheduler.waiting) == (0, 1)
        go_on.set()
        assert len(tokens_of(results(late)[0])) == 3


def test_a_prompt_that_is_too_long_is_refused_before_it_waits_for_a_slot(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with serving(tiny_model) as scheduler:
        running = scheduler.submit(job(tiny_model, 3))
        assert gate.reached.wait(PATIENCE_S)
        ((refused,),) = results(scheduler.submit(job(tiny_model, 3, text="much too long " * 400)))
        assert isinstance(refused, Failed)
        assert "this bundle supports at most" in str(refused.error)
        assert scheduler.waiting == 0
        gate.open.set()
        results(running)


def test_a_cancelled_job_frees_its_place_within_one_token(
    tiny_model: Model, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    tickets: list[Ticket] = []

    def hook(loop: TokenLoop) -> None:
        steps.append(loop.limit)
        if steps.count(40) == 6:
            tickets[0].cancel()
            tickets[0].cancel()

    gate = Gate(monkeypatch)
    before_each_step(monkeypatch, hook)
    with serving(tiny_model) as scheduler:
        tickets.append(scheduler.submit(job(tiny_model, 40)))
        assert gate.reached.wait(PATIENCE_S)
        tickets.append(scheduler.submit(job(tiny_model, 5, image=1)))
        gate.open.set()
        first, second = results(*tickets)
    assert steps == [40] * 6 + [5] * 5
    assert tokens_of(first) == alone(tiny_pipeline, 40)[:6]
    assert isinstance(first[-1], Finished)
    assert first[-1].answer.finish_reason == "cancelled"
    assert tokens_of(second) == alone(tiny_pipeline, 5, image=1)


def test_a_cancelled_job_that_waits_leaves_the_queue_at_once(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with serving(tiny_model, waiting=1) as scheduler:
        running = scheduler.submit(job(tiny_model, 3))
        assert gate.reached.wait(PATIENCE_S)
        gone = scheduler.submit(job(tiny_model, 4))
        with pytest.raises(QueueFullError):
            scheduler.submit(job(tiny_model, 5))
        gone.cancel()  # while the worker is in the middle of a step
        assert scheduler.waiting == 0
        last = scheduler.submit(job(tiny_model, 6))
        gate.open.set()
        events = results(running, gone, last)
    assert [type(each[-1]).__name__ for each in events] == ["Finished", "Failed", "Finished"]
    assert [str(each.error) for each in events[1] if isinstance(each, Failed)] == [
        "the request was cancelled before it had started"
    ]


def test_a_reader_that_leaves_cancels_its_job(tiny_model: Model) -> None:
    async def read_two(ticket: Ticket) -> None:
        events = ticket.events()
        await anext(events)
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]

    with serving(tiny_model) as scheduler:
        ticket = scheduler.submit(job(tiny_model, 64))
        asyncio.run(read_two(ticket))
        assert ticket.cancelled
        until(lambda: scheduler.running == 0)


def test_a_reader_whose_event_loop_is_closed_cancels_its_job(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_each_step(monkeypatch, lambda loop: time.sleep(0.01))
    with serving(tiny_model) as scheduler:
        ticket = scheduler.submit(job(tiny_model, 64))
        loop = asyncio.new_event_loop()
        events = ticket.events()
        loop.run_until_complete(anext(events))
        loop.close()  # without a word to anybody
        until(lambda: scheduler.running == 0)
        assert ticket.cancelled
        assert len(tokens_of(results(scheduler.submit(job(tiny_model, 4)))[0])) == 4


def test_a_reader_that_never_reads_holds_nobody_up(tiny_model: Model) -> None:
    with serving(tiny_model) as scheduler:
        never = scheduler.submit(job(tiny_model, 64))
        until(lambda: scheduler.running == 1)
        assert len(tokens_of(results(scheduler.submit(job(tiny_model, 5)))[0])) == 5
        assert len(never._events) == 64 + 2  # Started, the tokens, Finished: no more can ever be there
        late = results(never)[0]
    assert len(tokens_of(late)) == 64


def test_events_are_read_once(tiny_model: Model) -> None:
    with serving(tiny_model) as scheduler:
        ticket = scheduler.submit(job(tiny_model, 3))
        results(ticket)
        with pytest.raises(RuntimeError, match="read already"):
            results(ticket)


def test_a_full_queue_refuses_and_says_when_to_come_back(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with serving(tiny_model, slots=2, waiting=3) as scheduler:
        tickets = [scheduler.submit(job(tiny_model, 5)) for _ in range(5)]  # two of them for the slots
        with pytest.raises(QueueFullError) as full:
            scheduler.submit(job(tiny_model, 5))
        assert full.value.retry_after_s == 1
        scheduler._queue._service_s.extend([4.0, 8.0])  # measured of earlier jobs
        assert gate.reached.wait(PATIENCE_S)
        with pytest.raises(QueueFullError, match="ask again in") as full:
            scheduler.submit(job(tiny_model, 5))
        # One runs, whose first step the gate holds; 6 s each, in two slots.
        assert full.value.retry_after_s == 6 * scheduler.waiting / 2
        assert scheduler.waiting == 4
        gate.open.set()
        assert [len(tokens_of(each)) for each in results(*tickets)] == [5] * 5
        assert len(tokens_of(results(scheduler.submit(job(tiny_model, 5)))[0])) == 5


def test_no_queue_at_all_still_fills_the_slots(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with serving(tiny_model, slots=2, waiting=0) as scheduler:
        tickets = [scheduler.submit(job(tiny_model, 5)) for _ in range(2)]
        with pytest.raises(QueueFullError):
            scheduler.submit(job(tiny_model, 5))
        gate.open.set()
        results(*tickets)
