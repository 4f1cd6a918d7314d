"""A server of a tiny model, and what its tests ask it."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from PIL import Image

from tests.conftest import noise_image

QUESTION = "What color is it?"
IMAGE = noise_image(0)
MODEL = "tiny"


def png(image: Image.Image = IMAGE) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def data_address(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shown(address: str) -> dict[str, Any]:
    """A part with an image."""
    return {"type": "image_url", "image_url": {"url": address}}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def asked(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request: parts of the user's one message, usually an image and a question."""
    content = list(parts) or [shown(data_address(png())), said(QUESTION)]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def ask(
    app: FastAPI,
    body: Any,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """One request to an app, without a network. body: JSON, or bytes that claim to be."""

    async def one() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            content = {} if body is None else {"content": body} if isinstance(body, bytes) else {"json": body}
            return await client.request(
                method, path, headers={"Content-Type": "application/json"} | dict(headers or {}), **content
            )

    return asyncio.run(one())


def refusal(response: httpx.Response) -> dict[str, Any]:
    """The error of a response that is none, in OpenAI's shape."""
    assert 400 <= response.status_code < 500, response.text
    (found,) = response.json().values()
    assert found.keys() == {"message", "type", "param", "code"}
    assert isinstance(found["message"], str) and found["message"]
    return dict(found)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app's address while it is served."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def until(happened: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)
