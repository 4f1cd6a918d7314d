"""Who may ask and how much: keys, hosts, sizes, a full queue, a server that stops, clients that go away."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.openai import completions
from fastv_runtime.serving.scheduler import Scheduler, Ticket
from fastv_runtime.serving.settings import key_hash, read_keys
from tests.http.asking import MODEL, ask, asked, refusal, served, until
from tests.http.conftest import Serving, client_of

KEYED = ("/v1/models", f"/v1/models/{MODEL}", "/metrics")
OPEN = ("/health", "/health/ready")


@pytest.fixture(scope="module")
def locked(serving: Serving) -> Iterator[str]:
    """The address of a server with two keys."""
    with served(serving.app(key_hashes=(key_hash("one"), key_hash("two")))) as at:
        yield at


def test_a_key_opens_and_no_other(locked: str) -> None:
    for key in ("one", "two"):
        assert client_of(locked, key).chat.completions.create(**asked(max_tokens=1)).choices
    for key in ("three", "on", "one one"):
        with pytest.raises(openai.AuthenticationError) as caught:
            client_of(locked, key).chat.completions.create(**asked(max_tokens=1))
        assert caught.value.code == "invalid_api_key"
        assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"


def test_what_a_key_opens(locked: str) -> None:
    for path in KEYED:
        assert httpx.get(locked + path).status_code == 401
        assert httpx.get(locked + path, headers={"Authorization": "Basic one"}).status_code == 401
        assert httpx.get(locked + path, headers={"Authorization": "bearer one"}).status_code == 200
    for path in OPEN:
        assert httpx.get(locked + path).status_code == 200


def test_a_body_without_a_key_is_not_read(serving: Serving) -> None:
    app = serving.app(key_hashes=(key_hash("one"),), max_body=10)
    assert ask(app, bytes(100)).status_code == 401


def test_keys_are_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\n  one \ntwo\n")
    assert read_keys(file) == (key_hash("one"), key_hash("two"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# none\n\n", "no key in it"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a b\n", "key 1 has characters"),
        ("schlüssel\n".encode(), "key 1 has characters"),
        (bytes((1 << 20) + 1), "larger than 1 MiB"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_of_keys_that_are_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_keys(file)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_name_that_leads_here_from_elsewhere_is_no_way_in(serving: Serving, host: str, status: int) -> None:
    app = serving.app(allowed_hosts=("localhost", "127.0.0.1", "::1"))
    response = ask(app, None, path="/v1/models", method="GET", headers={"Host": host})
    assert response.status_code == status
    assert ask(serving.app(), None, path="/v1/models", method="GET", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_may_not_ask_unless_they_are_named(serving: Serving) -> None:
    preflight = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    named = serving.app(cors_origins=("https://a.example",))
    allowed = ask(named, None, method="OPTIONS", headers=preflight)
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://a.example"
    for app, headers in ((serving.app(), preflight), (named, preflight | {"Origin": "https://b.example"})):
        assert "Access-Control-Allow-Origin" not in ask(app, None, method="OPTIONS", headers=headers).headers
    # What a page may send without asking first.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        response = ask(serving.app(), json.dumps(asked()).encode(), headers={"Content-Type": kind})
        assert response.status_code == 415
        refusal(response)


def test_bodies_are_bounded(serving: Serving) -> None:
    app = serving.app(max_body=1000)
    assert refusal(ask(app, b"x" * 1001))["code"] == "request_too_large"
    assert ask(app, b"x" * 1001).status_code == 413
    assert ask(app, b"x" * 1000).status_code == 400
    with served(app) as at, pytest.raises(openai.APIStatusError) as caught:
        client_of(at).chat.completions.create(**asked())
    assert caught.value.status_code == 413


def test_a_body_that_says_no_length_is_bounded_too(serving: Serving) -> None:
    with served(serving.app(max_body=1000)) as at:

        def endless() -> Iterator[bytes]:
            while True:
                yield b" " * 500

        response = httpx.post(
            f"{at}/v1/chat/completions", content=endless(), headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 413


def test_many_small_values_are_refused_before_they_are_parsed(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "read_request", None)
    for body in (b"[" * 1_000_000, b"[" + b"{}," * 500_000 + b"{}]", b"[" + b"0," * 500_000 + b"0]"):
        assert refusal(ask(serving.app(), body))["code"] == "too_many_values"


def test_bodies_at_work_are_bounded_together(serving: Serving) -> None:
    app = serving.app(max_body=10_000, max_bodies=15_000)
    with served(app) as at:
        host, port = at.removeprefix("http://").split(":")
        slow = socket.create_connection((host, int(port)))
        slow.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10000\r\n\r\n" + b" " * 9000
        )

        def answered() -> int:
            return httpx.post(
                f"{at}/v1/chat/completions", content=b" " * 9000, headers={"Content-Type": "application/json"}
            ).status_code

        until(lambda: answered() == 429)
        slow.close()
        until(lambda: answered() == 400)


def test_a_body_that_does_not_arrive(serving: Serving) -> None:
    with served(serving.app(body_seconds=0.2)) as at:
        host, port = at.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_images_are_counted_before_they_are_decoded(serving: Serving) -> None:
    app = serving.app(max_images=2)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert "3 images: this server takes 2 a request" in refusal(ask(app, asked(image, image, image)))["message"]


@pytest.mark.parametrize(("path", "method", "status"), [("/v1/x", "GET", 404), ("/v1/chat/completions", "GET", 405)])
def test_there_is_nothing_else(serving: Serving, path: str, method: str, status: int) -> None:
    response = ask(serving.app(), None, path=path, method=method)
    assert response.status_code == status
    refusal(response)


class Held:
    """Every step of every answer waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.go = threading.Event()
        self.steps = 0
        advance = TokenLoop.advance

        def held(loop: TokenLoop) -> str:
            self.steps += 1
            assert self.go.wait(20)
            return advance(loop)

        monkeypatch.setattr(TokenLoop, "advance", held)


def test_a_full_queue_says_when_to_ask_again(narrow: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with served(narrow.app()) as at:
        first: list[Any] = []
        asking = threading.Thread(
            target=lambda: first.append(client_of(at).chat.completions.create(**asked(max_tokens=2)))
        )
        asking.start()
        until(lambda: narrow.scheduler.running == 1)
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                client_of(at).chat.completions.create(**asked(max_tokens=2, stream=stream))
            assert caught.value.type == "rate_limit_error"
            assert int(caught.value.response.headers["Retry-After"]) >= 1
        held.go.set()
        asking.join()
        assert first[0].usage.completion_tokens == 2
        assert client_of(at).chat.completions.create(**asked(max_tokens=2)).choices


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place_within_a_token(
    narrow: Serving, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    held, seen = Held(monkeypatch), threading.Event()
    cancel = Ticket.cancel
    monkeypatch.setattr(Ticket, "cancel", lambda ticket: (cancel(ticket), seen.set())[0])
    with served(narrow.app()) as at:
        host, port = at.removeprefix("http://").split(":")
        body = json.dumps(asked(max_tokens=64, stream=stream)).encode()
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            until(lambda: held.steps == 1)
            if stream:
                assert b"200 OK" in gone.recv(100)
            assert not seen.is_set()
        assert seen.wait(20)
        held.go.set()
        until(lambda: narrow.scheduler.running == 0)
        assert held.steps <= 2
        assert 'fastv_requests_total{outcome="cancelled"} 1.0' in httpx.get(f"{at}/metrics").text


def test_a_stream_that_fails_says_so_in_its_last_chunk(narrow: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    advance = TokenLoop.advance

    def failing(loop: TokenLoop) -> str:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise RuntimeError("the secret of our machine")
        return advance(loop)

    monkeypatch.setattr(TokenLoop, "advance", failing)
    with served(narrow.app()) as at:
        response = httpx.post(f"{at}/v1/chat/completions", json=asked(max_tokens=9, stream=True))
        *_, last, done = [line for line in response.text.splitlines() if line]
        assert done == "data: [DONE]"
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert "secret" not in response.text
        steps = 0
        with pytest.raises(openai.APIError):
            list(client_of(at).chat.completions.create(**asked(max_tokens=9), stream=True))
        steps = 0
        with pytest.raises(openai.InternalServerError) as caught:
            client_of(at).chat.completions.create(**asked(max_tokens=9))
        assert "secret" not in str(caught.value)
        assert client_of(at).chat.completions.create(**asked(max_tokens=2)).choices


def test_a_deadline_cuts_an_answer_off(narrow: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = TokenLoop.advance

    def slow(loop: TokenLoop) -> str:
        if len(loop.answer.token_ids) == 4:
            time.sleep(2.1)
        return advance(loop)

    monkeypatch.setattr(TokenLoop, "advance", slow)
    found = ask(narrow.app(deadline_s=2), asked(max_tokens=64)).json()
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["fastv"]["finish_reason"] == "deadline"
    assert found["usage"]["completion_tokens"] == 5


def test_a_server_that_stops_takes_nothing_more(serving: Serving) -> None:
    scheduler = Scheduler(serving.model, slots=1, metrics=Metrics())
    app = Serving(serving.model, scheduler).app()
    assert ask(app, None, path="/health/ready", method="GET").status_code == 200
    scheduler.stop(1)
    assert ask(app, None, path="/health/ready", method="GET").status_code == 503
    assert ask(app, None, path="/health", method="GET").status_code == 200
    response = ask(app, asked())
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "stopping"
    assert int(response.headers["Retry-After"]) >= 1
