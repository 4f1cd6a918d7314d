"""The load that benchmarks/serving_load.py puts on a server, for a moment and without HTTP."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi import FastAPI
from openai import DEFAULT_CONNECTION_LIMITS

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from serving_load import Ask, Refused, flatness, load
from serving_questions import Question, questions

from fastv_runtime import Pipeline
from fastv_runtime.generation.calls.question import read_question
from fastv_runtime.generation.calls.settings import read_settings
from fastv_runtime.generation.model import Model
from fastv_runtime.serving import http_server
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import Failed, Finished, Job, QueueFullError, Scheduler, TextPiece
from tests.conftest import noise_image
from tests.serving.scheduled import serving, until

SLOTS, SECONDS = 2, 3.0


@pytest.fixture(scope="module")
def asked(tiny_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(2):
        noise_image(seed).save(folder / f"{seed}.png")
    return questions(
        tiny_pipeline,
        sorted(folder.glob("*.png")),
        texts=("What?", "Where is it?"),
        following=("Why?",),
        most=8,
        long=None,
    )


def of_scheduler(scheduler: Scheduler, model: Model) -> Ask:
    async def ask(question: Question) -> AsyncIterator[str]:
        settings = read_settings(model.manifest, **question.asked)
        try:
            ticket = scheduler.submit(Job(read_question(None, question.messages, None, (), ()), settings))
        except QueueFullError as full:
            raise Refused(full.retry_after_s / 20) from None
        try:
            async for event in ticket.events():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, TextPiece):
                    yield event.text
                assert not isinstance(event, Finished) or event.answer.finish_reason in ("stop", "length")
        finally:
            ticket.cancel()

    return ask


def test_ten_times_more_clients_than_slots_get_right_answers_or_are_refused(
    tiny_model: Model, asked: list[Question]
) -> None:
    metrics = Metrics()
    with serving(tiny_model, slots=SLOTS, waiting=8, cache_bytes=1 << 18, metrics=metrics) as scheduler:
        ask = of_scheduler(scheduler, tiny_model)
        tally = asyncio.run(load(ask, asked, 10 * SLOTS, SECONDS))
        until(lambda: scheduler.running == scheduler.waiting == 0)
        assert scheduler._graphs._conversations.nbytes <= 1 << 18
        seen = {
            name: metrics.registry.get_sample_value("fastv_requests_total", {"outcome": name})
            for name in ("stop", "length", "cancelled", "refused", "failed", "deadline")
        }
    assert tally.wrong == []
    assert tally.outcomes["answered"] >= 5
    assert tally.outcomes["refused"] == seen["refused"] > 0
    # An answer whose client has left may have been finished before that was known.
    assert tally.outcomes["answered"] <= seen["stop"] + seen["length"]  # type: ignore[operator]
    assert seen["stop"] + seen["length"] + seen["cancelled"] == tally.outcomes["answered"] + tally.outcomes["vanished"]  # type: ignore[operator]
    assert (seen["failed"], seen["deadline"]) == (0, 0)


def test_a_wrong_answer_is_told_from_a_right_one(tiny_model: Model, asked: list[Question]) -> None:
    """The load must be able to fail."""
    changed = [Question(each.name, each.messages, each.asked, each.expected + "?") for each in asked]
    with serving(tiny_model, slots=SLOTS) as scheduler:
        tally = asyncio.run(load(of_scheduler(scheduler, tiny_model), changed, 2, 0.3))
    assert not tally.outcomes["answered"]
    assert "was expected" in tally.wrong[0]


def test_memory_stays_where_it_is(tiny_model: Model, asked: list[Question]) -> None:
    process, samples = psutil.Process(), []
    with serving(tiny_model, slots=SLOTS, cache_bytes=1 << 18) as scheduler:
        ask = of_scheduler(scheduler, tiny_model)
        for seed in range(8):
            asyncio.run(load(ask, asked, 4, 0.2, seed))
            samples.append({"rss_mib": process.memory_info().rss / 2**20})
    assert flatness(samples)["ratio"] < 1.02, samples


def test_idle_connections_are_kept_for_longer_than_clients_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load a client that asked again after 5 s wrote to connections that were being closed."""
    kept: list[float] = []
    monkeypatch.setattr(
        http_server._Server, "run", lambda server, sockets: kept.append(server.config.timeout_keep_alive)
    )
    http_server.serve(FastAPI(), Any, socket.socket(), grace_s=1, started=list)  # type: ignore[arg-type]
    assert DEFAULT_CONNECTION_LIMITS.keepalive_expiry is not None
    assert kept[0] > 2 * DEFAULT_CONNECTION_LIMITS.keepalive_expiry >= 10
