"""What tests of the scheduler share: jobs, their events, and a hand on every step of the worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastv_runtime import Pipeline
from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.calls.settings import read_settings
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.model import Model
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import Event, Finished, Job, Scheduler, TextPiece, Ticket
from tests.conftest import noise_image

IMAGES = [noise_image(seed) for seed in range(4)]
QUESTION = "What color is it?"
PATIENCE_S = 30
"""Far more than anything here takes: a test that waits so long has found a scheduler that hangs."""


def job(
    model: Model, tokens: int = 12, image: int = 0, deadline_s: float | None = None, text: str = QUESTION, **asked: Any
) -> Job:
    """A question about one of the images that is answered by so many tokens, which also tell jobs apart."""
    settings = read_settings(model.manifest, max_new_tokens=tokens, **({"ignore_stop": True} | asked))
    return Job(GenerationInput([IMAGES[image]], [], text=text), settings, deadline_s)


def alone(pipeline: Pipeline, tokens: int = 12, image: int = 0, text: str = QUESTION, **asked: Any) -> list[int]:
    """Token ids of the same answer where nobody else asks."""
    return pipeline.generate([IMAGES[image]], text, max_new_tokens=tokens, ignore_stop=True, **asked).token_ids


@contextmanager
def serving(model: Model, **options: Any) -> Iterator[Scheduler]:
    """A scheduler that is gone afterwards, its thread included."""
    scheduler = Scheduler(model, **({"metrics": Metrics()} | options))
    try:
        yield scheduler
    finally:
        scheduler.stop(0)
        assert not scheduler.ready


def results(*tickets: Ticket) -> list[list[Event]]:
    """All events of each, read at the same time."""

    async def read(ticket: Ticket) -> list[Event]:
        return [event async for event in ticket.events()]

    async def all_of_them() -> list[list[Event]]:
        return await asyncio.wait_for(asyncio.gather(*map(read, tickets)), PATIENCE_S)

    return asyncio.run(all_of_them())


def tokens_of(events: list[Event]) -> list[int]:
    """Of an answer that was finished, and whose pieces are what it says."""
    last = events[-1]
    assert isinstance(last, Finished), last
    pieces = [event for event in events if isinstance(event, TextPiece)]
    assert [token for piece in pieces for token in piece.token_ids] == last.answer.token_ids
    assert "".join(piece.text for piece in pieces) == last.answer.text
    return last.answer.token_ids


def before_each_step(monkeypatch: pytest.MonkeyPatch, hook: Callable[[TokenLoop], object]) -> None:
    """Call `hook` in the worker's thread before every step; what it raises is raised there."""
    advance = TokenLoop.advance

    def watched(loop: TokenLoop) -> str:
        hook(loop)
        return advance(loop)

    monkeypatch.setattr(TokenLoop, "advance", watched)


class Gate:
    """Holds the worker before its next step, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        before_each_step(monkeypatch, self._pass)

    def _pass(self, loop: TokenLoop) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE_S)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
