"""What ended a job, as the error that its client is told."""

from __future__ import annotations

import re

from fastv_runtime.errors import UserError
from fastv_runtime.serving.errors import ApiError, busy, internal, stopping
from fastv_runtime.serving.openai.request import ChatRequest
from fastv_runtime.serving.scheduler import DeadlineError, JobCancelledError, QueueFullError, StoppingError

FIELDS = {"json_schema": "response_format", "regex": "response_format"}
"""Options of ours that stand in a field of another name."""


def as_api_error(error: Exception, request: ChatRequest) -> ApiError:
    """400 for what cannot be used, 429 and 503 for what may be asked again, 500 for a fault of ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return _refused(error, request)
    if isinstance(error, QueueFullError):
        return busy("as many requests wait as this server lets wait", error.retry_after_s)
    if isinstance(error, StoppingError):
        return stopping()
    if isinstance(error, DeadlineError):
        return ApiError(
            503,
            "the request waited until its time was over: ask again",
            kind="server_error",
            code="deadline",
            headers={"Retry-After": "1"},
        )
    if isinstance(error, JobCancelledError):
        return ApiError(499, "the client has gone", code="cancelled")
    return internal(error)


def _refused(error: UserError, request: ChatRequest) -> ApiError:
    """In the request's words: options that a message names in backticks are its fields."""
    limit = "max_tokens" if request.max_tokens is not None else "max_completion_tokens"
    message = re.sub(r"`export\.(\w+)`", r"`\1` of fastv-export", str(error))
    if request.limit is not None:
        message = message.replace("`max_new_tokens`", f"`{limit}`", 1)
    named = [FIELDS.get(name, name) for name in re.findall(r"`(\w+)`", message)]
    fields = [name for name in named if name in ChatRequest.model_fields]
    return ApiError(400, message, param=fields[0] if fields else "messages", code="invalid_value")
