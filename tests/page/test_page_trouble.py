"""The page when things go wrong: whatever a server answers, nothing that was written or shown is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route

from fastv_runtime import Pipeline
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.serving.errors import busy
from fastv_runtime.serving.settings import key_hash
from tests.conftest import noise_image
from tests.page.conftest import OpenPage, Serving, Shown, served

ASKED = "What color is the circle?"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "0.png"
    noise_image(0).save(path)
    return path


@pytest.fixture(scope="module")
def expected(picture: Path, tiny_pipeline: Pipeline) -> str:
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": ASKED}]
    return tiny_pipeline.generate(messages=[{"role": "user", "content": parts}]).text.lstrip()


def send(shown: Shown) -> None:
    shown.question.fill(ASKED)
    shown.question.press("Enter")


def alert(shown: Shown, text: str) -> None:
    """Wait until the page says so."""
    shown.tab.get_by_role("alert").get_by_text(text).wait_for()


def check_nothing_is_lost(shown: Shown, picture: Path) -> None:
    """The question stands where it was written, with its image, and no turn."""
    assert shown.tab.locator(".turn").count() == 0
    assert shown.question.input_value() == ASKED
    assert shown.tab.get_by_role("button", name=f"Remove {picture.name}").count() == 1


def test_a_server_with_keys_is_given_one(open_page: OpenPage, serving: Serving, picture: Path, expected: str) -> None:
    with served(serving.app(key_hashes=(key_hash("right"),))) as at:
        shown = open_page(at)
        key = shown.tab.get_by_label("This server asks for an API key:")
        key.fill("wrong")
        key.press("Enter")
        alert(shown, "no API key that this server knows")
        key.fill("right")
        shown.tab.get_by_role("button", name="Use this key").click()
        shown.tab.get_by_text("tiny, pruned at layer 2").wait_for()
        shown.attach(picture)
        shown.ask(ASKED)
        assert shown.answer == expected
        assert not key.is_visible()
        # Kept in memory alone.
        stored = shown.tab.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert stored == [0, 0, ""]
        shown.tab.reload()
        key.wait_for()


def test_a_question_goes_out_again_once_there_is_a_key(shown: Shown, picture: Path, expected: str) -> None:
    refused = {"error": {"message": "no API key that this server knows", "type": "invalid_request_error"}}

    def refuse(route: Route) -> None:
        if "authorization" in route.request.headers:
            route.continue_()
        else:
            route.fulfill(status=401, json=refused)

    shown.tab.route("**/v1/chat/completions", refuse)
    shown.attach(picture)
    send(shown)
    key = shown.tab.get_by_label("This server asks for an API key:")
    key.wait_for()
    check_nothing_is_lost(shown, picture)
    key.fill("right")
    key.press("Enter")
    shown.tab.locator(".turn").wait_for()
    shown.wait()
    assert shown.answer == expected


def test_a_busy_server_is_asked_again(shown: Shown, picture: Path, expected: str) -> None:
    error = busy("as many requests wait as this server lets wait", 1)
    times: list[float] = []

    def refuse_once(route: Route) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            route.fulfill(status=429, headers=error.headers, json=error.body())
        else:
            route.continue_()

    shown.tab.route("**/v1/chat/completions", refuse_once)
    shown.attach(picture)
    send(shown)
    shown.last.get_by_text("The server is busy. Trying again in 1 s.").wait_for()
    shown.wait()
    assert shown.answer == expected
    assert len(times) == 2
    assert times[1] - times[0] >= 1
    assert "busy" not in shown.last.inner_text()


def test_waiting_for_a_busy_server_can_be_stopped(shown: Shown, picture: Path) -> None:
    error = busy("as many requests wait as this server lets wait", 60)
    shown.tab.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=429, headers=error.headers, json=error.body())
    )
    shown.attach(picture)
    send(shown)
    shown.last.get_by_text("Trying again in 60 s.").wait_for()
    shown.tab.get_by_role("button", name="Stop").click()
    shown.tab.locator(".turn").wait_for(state="detached")
    check_nothing_is_lost(shown, picture)


def test_stopping_keeps_what_came_and_frees_the_server(
    shown: Shown, picture: Path, expected: str, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = TokenLoop.advance

    def slow(loop: TokenLoop) -> str:
        time.sleep(0.1)
        return advance(loop)

    monkeypatch.setattr(TokenLoop, "advance", slow)
    shown.attach(picture)
    send(shown)
    shown.tab.locator(".answer", has_text=expected[0]).wait_for()
    shown.tab.get_by_role("button", name="Stop").click()
    begun = time.monotonic()
    while serving.scheduler.running:
        assert time.monotonic() - begun < 3, "the whole answer takes more than six seconds"
        time.sleep(0.01)
    shown.last.get_by_text("Stopped.").wait_for()
    assert 0 < len(shown.answer) < len(expected)
    assert expected.startswith(shown.answer)
    monkeypatch.undo()
    shown.last.get_by_role("button", name="Ask again").click()
    shown.wait()
    assert shown.answer == expected


def test_what_the_server_refuses_is_said_in_its_words(shown: Shown, picture: Path) -> None:
    long = " ".join([ASKED] * 100)
    shown.attach(picture)
    shown.question.fill(long)
    shown.question.press("Enter")
    alert(shown, "and this bundle supports at most")
    assert shown.question.input_value() == long
    assert shown.tab.get_by_role("button", name="Remove").count() == 1


def test_a_page_of_a_proxy_is_no_answer(shown: Shown, picture: Path) -> None:
    shown.tab.route("**/v1/chat/completions", lambda route: route.fulfill(status=502, body="<html>"))
    shown.attach(picture)
    send(shown)
    alert(shown, "The server answered 502")
    check_nothing_is_lost(shown, picture)


def test_a_server_that_is_gone_is_said_to_be(shown: Shown, picture: Path) -> None:
    shown.tab.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    shown.attach(picture)
    send(shown)
    alert(shown, "The server cannot be reached.")
    check_nothing_is_lost(shown, picture)


PIECE = {"choices": [{"delta": {"content": "half of"}, "finish_reason": None}]}


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (None, "The connection ended before the answer did."),
        ({"error": {"message": "the server failed at this request", "type": "server_error"}}, "the server failed"),
        ({"choices": [{"delta": {}, "finish_reason": "length"}]}, "The answer reached the largest number of tokens."),
        (
            {"choices": [{"delta": {}, "finish_reason": "length"}], "fastv": {"finish_reason": "deadline"}},
            "The answer reached the server's time limit.",
        ),
    ],
)
def test_half_an_answer_stays_with_what_ended_it(shown: Shown, last: Any, said: str) -> None:
    chunks = [PIECE] if last is None else [PIECE, last]
    body = "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks)
    shown.tab.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    shown.ask(ASKED)
    assert shown.answer == "half of"
    shown.last.locator(".remarks").get_by_text(said).wait_for()


def test_an_answer_that_fails_the_second_time_is_the_first(shown: Shown, picture: Path, expected: str) -> None:
    shown.attach(picture)
    shown.ask(ASKED)
    kept = shown.kept()
    shown.tab.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=503, json={"error": {"message": "no"}})
    )
    shown.last.get_by_role("button", name="Ask again").click()
    alert(shown, "no")
    assert shown.answer == expected
    assert shown.kept() == kept
