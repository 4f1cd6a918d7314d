"""Server-sent events of a chat completion: a chunk for each piece of text, and [DONE]."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fastv_runtime.serving.openai.failures import as_api_error
from fastv_runtime.serving.openai.request import ChatRequest
from fastv_runtime.serving.openai.response import Completion, finish_reason
from fastv_runtime.serving.scheduler import Event, Failed, Finished, Started, TextPiece, Ticket

DONE = b"data: [DONE]\n\n"


def encoded(value: Any) -> bytes:
    """JSON as responses have it: compact, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def as_event(value: Any) -> bytes:
    """One event; JSON has no line breaks."""
    return b"data: " + encoded(value) + b"\n\n"


class CompletionStream(StreamingResponse):
    """The response to a request with `stream`. Whatever ends it, a client that has gone among it, ends the job."""

    def __init__(
        self,
        request: ChatRequest,
        completion: Completion,
        ticket: Ticket,
        started: Started,
        events: AsyncIterator[Event],
    ):
        super().__init__(
            _chunks(request, completion, started, events),
            media_type="text/event-stream",
            # A proxy that gathers what it passes on would hold the answer back.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.cancel()


async def _chunks(
    request: ChatRequest, completion: Completion, started: Started, events: AsyncIterator[Event]
) -> AsyncIterator[bytes]:
    """The chunks that follow a job's first event. An error is one of them, the last before [DONE]."""
    facts = await run_sync(partial(completion.first, started.answer, started.shown, started.reused_tokens))
    yield as_event(completion.chunk({"role": "assistant", "content": ""}, fastv=facts))
    sent = 0
    async for event in events:
        if isinstance(event, TextPiece) and event.text:
            sent += len(event.text)
            yield as_event(completion.chunk({"content": event.text}))
        elif isinstance(event, Finished):
            if rest := event.answer.text[sent:]:  # what an answer that was ended early had held back
                yield as_event(completion.chunk({"content": rest}))
            last = completion.last(event.answer)
            yield as_event(completion.chunk({}, finish=finish_reason(event.answer), fastv=last))
            if request.stream_options.include_usage:
                yield as_event(completion.usage_chunk(event.answer))
        elif isinstance(event, Failed):
            yield as_event(as_api_error(event.error, request).body())
    yield DONE
