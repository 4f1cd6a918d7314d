"""Who may ask, and how much: API keys, the Host header, the size and shape of a body."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from fastv_runtime.serving.errors import ApiError, busy
from fastv_runtime.serving.settings import ServeSettings, key_hash

MOST_VALUES = 200_000
"""Of a body's JSON: a parsed value takes a hundred times the two bytes that it may have there."""
CLOSED = {"Connection": "close"}
"""Of an answer to a body that was not read to its end, which may have none."""


class Gate:
    """What every request passes."""

    def __init__(self, settings: ServeSettings):
        self._settings = settings
        self._held = 0

    def check_host(self, request: Request) -> None:
        """Raises ApiError for a Host header that is none of the allowed names."""
        allowed = self._settings.allowed_hosts
        if allowed is None:
            return
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        except ValueError:
            host = None
        if host not in allowed:
            raise ApiError(
                421, "the Host header names another machine: this server answers its own alone", code="wrong_host"
            )

    def check_key(self, request: Request) -> None:
        """Raises ApiError without a key that is known, where there are keys."""
        hashes = self._settings.key_hashes
        if not hashes:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = key_hash(key.strip()) if scheme.lower() == "bearer" else b""
        # All are compared, so that the time says nothing of which.
        if sum(hmac.compare_digest(given, each) for each in hashes) == 0:
            raise ApiError(
                401,
                "no API key that this server knows: send Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytearray]:
        """The body of a request with JSON, held against the limit of all until the block ends. Raises ApiError."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a form of another site's page is sent unasked, JSON is not
            raise ApiError(
                415, "the body must be JSON: send Content-Type: application/json", code="unsupported_media_type"
            )
        data = bytearray()
        try:
            try:
                with anyio.fail_after(self._settings.body_seconds):
                    await self._read(request, data)
            except TimeoutError:
                seconds = self._settings.body_seconds
                raise ApiError(
                    408, f"the body did not arrive within {seconds:g} s", code="timeout", headers=CLOSED
                ) from None
            except ClientDisconnect:
                raise ApiError(400, "the body ended early", code="disconnected") from None
            if sum(map(data.count, b",[{")) > MOST_VALUES:
                raise ApiError(413, f"the body has more than {MOST_VALUES:,} values", code="too_many_values")
            yield data
        finally:
            self._held -= len(data)

    async def _read(self, request: Request, data: bytearray) -> None:
        most = self._settings.max_body
        claimed = request.headers.get("content-length", "")
        if claimed.isascii() and claimed.isdigit() and int(claimed[:20]) > most:
            raise _too_large(most)
        async for chunk in request.stream():
            if len(data) + len(chunk) > most:
                raise _too_large(most)
            if self._held + len(chunk) > self._settings.max_bodies:
                raise busy("the requests that are at work hold as much as this server has room for", 1)
            data += chunk
            self._held += len(chunk)


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {most / (1 << 20):g} MiB: send smaller images",
        code="request_too_large",
        headers=CLOSED,
    )
