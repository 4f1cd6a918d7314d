"""`POST /v1/chat/completions`: from a body to a response, whoever goes away in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from functools import partial

import anyio
from anyio.to_thread import run_sync
from fastapi import Request, Response

from fastv_runtime.config.bundle import Manifest
from fastv_runtime.serving.access import Gate
from fastv_runtime.serving.errors import ApiError
from fastv_runtime.serving.openai.failures import as_api_error
from fastv_runtime.serving.openai.request import ChatRequest, read_request
from fastv_runtime.serving.openai.response import Completion
from fastv_runtime.serving.openai.streaming import CompletionStream, encoded
from fastv_runtime.serving.openai.translation import Translator, asks_network
from fastv_runtime.serving.scheduler import (
    Event,
    Failed,
    Finished,
    Job,
    QueueFullError,
    Scheduler,
    Started,
    StoppingError,
    Ticket,
)
from fastv_runtime.serving.settings import ServeSettings

READING, FETCHING = 8, 32
"""Requests that are read and translated side by side: those whose addresses are all their own, and those that may have
to wait half a minute for somebody else's server."""


class Completions:
    """Answers requests by a scheduler."""

    def __init__(self, scheduler: Scheduler, manifest: Manifest, settings: ServeSettings, gate: Gate):
        self._scheduler = scheduler
        self._settings = settings
        self._gate = gate
        self._translate = Translator(settings, manifest)
        self._readers = anyio.CapacityLimiter(READING)
        self._fetchers = anyio.CapacityLimiter(FETCHING)

    async def __call__(self, request: Request) -> Response:
        """Raises ApiError."""
        asked, ticket = await self._submitted(request)
        completion = Completion(self._settings.model_name, asked.fastv.views)
        events = ticket.events()
        streaming = False
        try:
            started = await _while_there(request, ticket, anext(events))
            if isinstance(started, Failed):
                raise as_api_error(started.error, asked)
            assert isinstance(started, Started)
            if asked.stream:
                streaming = True
                return CompletionStream(asked, completion, ticket, started, events)
            facts = await run_sync(partial(completion.first, started.answer, started.shown, started.reused_tokens))
            last = await _while_there(request, ticket, _last(events))
            if isinstance(last, Failed):
                raise as_api_error(last.error, asked)
            assert isinstance(last, Finished)
            return Response(encoded(completion.whole(last.answer, facts)), media_type="application/json")
        finally:
            if not streaming:
                ticket.cancel()

    async def _submitted(self, request: Request) -> tuple[ChatRequest, Ticket]:
        async with self._gate.body(request) as body:
            asked = await run_sync(read_request, body, limiter=self._readers)
            self.check_model(asked.model)
            limiter = self._fetchers if asks_network(asked) else self._readers
            question, settings = await run_sync(self._translate, asked, limiter=limiter)
            try:
                return asked, self._scheduler.submit(Job(question, settings, self._settings.deadline_s))
            except (QueueFullError, StoppingError) as error:
                raise as_api_error(error, asked) from None

    def check_model(self, name: str) -> None:
        """Raises ApiError, 404, for a model that is not this server's."""
        if name != self._settings.model_name:
            raise ApiError(
                404,
                f"there is no such model: this server has {self._settings.model_name}",
                param="model",
                code="model_not_found",
            )


async def _last(events: AsyncIterator[Event]) -> Event:
    async for event in events:
        if isinstance(event, (Finished, Failed)):
            return event
    raise RuntimeError("a job's events ended without its end")


async def _while_there(request: Request, ticket: Ticket, event: Awaitable[Event]) -> Event:
    """An event of a job, which is cancelled as soon as its client has gone."""
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            ticket.cancel()

        group.start_soon(watch)
        found = await event
        group.cancel_scope.cancel()
    return found
