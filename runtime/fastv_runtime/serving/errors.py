"""What a client is told when a request cannot be answered, in the shape of OpenAI's errors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

log = logging.getLogger("fastv_runtime")

INVALID = "invalid_request_error"


class ErrorDetail(BaseModel):
    """`error` of a response that is none, and of a stream's chunk that ends it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ApiError(Exception):
    """A request that is refused: its status, what is wrong, and in which field of the request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(message=message, type=kind, param=param, code=code)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """{"error": {"message", "type", "param", "code"}}."""
        return {"error": self.detail.model_dump()}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def busy(message: str, retry_after_s: float) -> ApiError:
    """429, with whole seconds to wait, at least one."""
    seconds = max(1, math.ceil(retry_after_s))
    return ApiError(
        429,
        f"{message}: ask again in {seconds} s",
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def stopping() -> ApiError:
    return ApiError(
        503,
        "the server is stopping: ask again once it is back",
        kind="server_error",
        code="stopping",
        headers={"Retry-After": "5"},
    )


def internal(error: BaseException) -> ApiError:
    """500 for what is a fault of ours: the log has it all, the client none of it."""
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed at this request: its log says why", kind="server_error")


async def answer_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def answer_http_error(_: Request, error: Exception) -> JSONResponse:
    """Of routes: an address that is none, a method that it does not take."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    said = {404: "there is nothing at this address", 405: "this address does not take this method"}
    message = said.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def answer_failure(_: Request, error: Exception) -> JSONResponse:
    return internal(error).response()
