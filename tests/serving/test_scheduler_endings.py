"""How jobs end that do not finish: deadlines, a server that stops, faults. One job's end is no other's."""

from __future__ import annotations

import threading
import time

import pytest

from fastv_runtime import Pipeline
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.model import Model, PreparedPrompt
from fastv_runtime.generation.slot import Slot
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import (
    Failed,
    Finished,
    Scheduler,
    StoppingError,
    TextPiece,
    Ticket,
)
from tests.serving.scheduled import (
    IMAGES,
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


def test_an_answer_that_is_cut_off_has_the_text_that_a_stop_string_held_back(
    tiny_model: Model, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the answer may begin the stop string, which never comes."""
    answer = tiny_pipeline.generate([IMAGES[0]], QUESTION, max_new_tokens=40, ignore_stop=True)
    tickets: list[Ticket] = []
    before_each_step(monkeypatch, lambda loop: len(loop.answer.token_ids) == 20 and tickets[0].cancel())
    gate = Gate(monkeypatch)
    with serving(tiny_model) as scheduler:
        tickets.append(scheduler.submit(job(tiny_model, 40, stop=[answer.text + "!"], ignore_stop=False)))
        gate.open.set()
        ((*before, last),) = results(*tickets)
    assert isinstance(last, Finished)
    text = tiny_model.prompts.tokenizer.decode(answer.token_ids[:21], skip_special_tokens=True)
    assert (last.answer.text, last.answer.finish_reason) == (text, "cancelled")
    pieces = [each for each in before if isinstance(each, TextPiece)]
    assert [each.text for each in pieces] == [""] * 21 + [text]
    assert pieces[-1].token_ids == ()


def test_a_deadline_ends_a_running_answer_as_far_as_it_came(
    tiny_model: Model, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = alone(tiny_pipeline, 64)
    before_each_step(monkeypatch, lambda loop: time.sleep(1.5 if len(loop.answer.token_ids) == 5 else 0))
    with serving(tiny_model) as scheduler:
        events = results(scheduler.submit(job(tiny_model, 64, deadline_s=1.5)))[0]
    made = tokens_of(events)
    assert isinstance(events[-1], Finished)
    assert events[-1].answer.finish_reason == "deadline"
    assert 1 <= len(made) <= 6  # the step that was begun is the last
    assert made == whole[: len(made)]


@pytest.mark.parametrize("busy", [True, False])
def test_a_deadline_fails_a_job_that_waits(tiny_model: Model, monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    """For a slot, or idly for its own preparation."""
    prepare, go_on = Model.prepare, threading.Event()

    def slow(model: Model, question: GenerationInput, clock: Clock) -> PreparedPrompt:
        assert question.text == QUESTION or busy or go_on.wait(PATIENCE_S)
        return prepare(model, question, clock)

    monkeypatch.setattr(Model, "prepare", slow)
    before_each_step(monkeypatch, lambda loop: time.sleep(0.01))
    with serving(tiny_model) as scheduler:
        first = scheduler.submit(job(tiny_model, 64)) if busy else None
        until(lambda: scheduler.running == int(busy))
        late = results(scheduler.submit(job(tiny_model, 3, deadline_s=0.1, text="And this?")))[0]
        assert scheduler.running == int(busy)
        go_on.set()
        assert first is None or len(tokens_of(results(first)[0])) == 64
    assert [type(each) for each in late] == [Failed]
    assert isinstance(late[0], Failed)
    assert str(late[0].error) == "the deadline passed while the request waited"


def test_stop_finishes_what_was_accepted_and_refuses_more(
    tiny_model: Model, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    scheduler = Scheduler(tiny_model, metrics=Metrics())
    tickets = [scheduler.submit(job(tiny_model, 10, image=image)) for image in range(3)]
    assert gate.reached.wait(PATIENCE_S)
    stopping = threading.Thread(target=scheduler.stop, args=(PATIENCE_S,))
    stopping.start()
    until(lambda: not scheduler.ready)
    with pytest.raises(StoppingError, match="stopping"):
        scheduler.submit(job(tiny_model, 5))
    gate.open.set()
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
    assert [tokens_of(each) for each in results(*tickets)] == [alone(tiny_pipeline, 10, image=i) for i in range(3)]


def test_stop_ends_what_is_left_when_its_time_is_over(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[None] = []
    before_each_step(monkeypatch, lambda loop: steps.append(time.sleep(0.02)))  # type: ignore[func-returns-value]
    scheduler = Scheduler(tiny_model, metrics=Metrics())
    tickets = [scheduler.submit(job(tiny_model, 64)) for _ in range(2)]
    until(lambda: len(steps) > 2)
    start = time.monotonic()
    scheduler.stop(0.2)
    assert time.monotonic() - start >= 0.2
    assert len(steps) < 64
    scheduler.stop(0.2)  # again: nothing is left to do
    # Two threads make them ready: either may have been first.
    waiting, running = sorted(results(*tickets), key=len)
    assert len(running) > 2
    assert len(waiting) == 1
    for each in (running[-1], waiting[-1]):
        assert isinstance(each, Failed)
        assert isinstance(each.error, StoppingError)
    assert (scheduler.running, scheduler.waiting) == (0, 0)


@pytest.mark.parametrize("error", [UserError("a full cache"), RuntimeError("a fault"), MemoryError("no room")])
@pytest.mark.parametrize("where", ["prepare", "start", "first token", "third token"])
def test_a_job_that_fails_fails_alone_and_its_slot_is_used_again(
    tiny_model: Model, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    prepare, start = Model.prepare, Slot.start

    def prepared(model: Model, question: GenerationInput, clock: Clock) -> PreparedPrompt:
        if where == "prepare" and question.text == "Fail!":
            raise error
        return prepare(model, question, clock)

    def started(slot: Slot, prepared: PreparedPrompt, settings: object, clock: Clock) -> TokenLoop:
        if where == "start" and settings.limit == 7:  # type: ignore[attr-defined]
            raise error
        return start(slot, prepared, settings, clock)  # type: ignore[arg-type]

    def step(loop: TokenLoop) -> None:
        if loop.limit == 7 and len(loop.answer.token_ids) == {"first token": 0, "third token": 2}.get(where, -1):
            raise error

    monkeypatch.setattr(Model, "prepare", prepared)
    monkeypatch.setattr(Slot, "start", started)
    before_each_step(monkeypatch, step)
    with serving(tiny_model, slots=2) as scheduler:
        tickets = [
            scheduler.submit(job(tiny_model, 20, image=1)),
            scheduler.submit(job(tiny_model, 7, text="Fail!")),
            scheduler.submit(job(tiny_model, 8, image=2)),
            scheduler.submit(job(tiny_model, 9, image=3)),
        ]
        first, failed, *others = results(*tickets)
        assert scheduler.ready
        assert (scheduler.running, scheduler.waiting) == (0, 0)
    assert isinstance(failed[-1], Failed)
    assert failed[-1].error is error
    assert tokens_of(first) == alone(tiny_pipeline, 20, image=1)
    assert [tokens_of(each) for each in others] == [
        alone(tiny_pipeline, 8, image=2),
        alone(tiny_pipeline, 9, image=3),
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("where", ["start", "advance"])
def test_a_worker_that_dies_leaves_nobody_waiting(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    submitted = threading.Event()

    def die(*arguments: object) -> None:
        assert submitted.wait(PATIENCE_S)
        raise SystemExit("what no job can raise")

    monkeypatch.setattr(*((Slot, "start", die) if where == "start" else (TokenLoop, "advance", die)))
    with serving(tiny_model) as scheduler:
        tickets = [scheduler.submit(job(tiny_model, 7)) for _ in range(3)]
        submitted.set()
        for events in results(*tickets):
            assert isinstance(events[-1], Failed)
            assert "must be started again" in str(events[-1].error)
        until(lambda: not scheduler.ready)
        assert (scheduler.running, scheduler.waiting) == (0, 0)
        with pytest.raises(StoppingError):
            scheduler.submit(job(tiny_model, 7))


@pytest.mark.parametrize("option", [{"slots": 0}, {"slots": 1.5}, {"waiting": -1}, {"cache_bytes": -1}])
def test_numbers_that_cannot_be_used_are_refused(tiny_model: Model, option: dict[str, int]) -> None:
    (name,) = option
    with pytest.raises(UserError, match=f"`{name}`"):
        Scheduler(tiny_model, metrics=Metrics(), **option)
