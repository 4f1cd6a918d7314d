"""200 bodies that are no request: each is answered by an error of 4xx in OpenAI's shape, and the server lives."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.asking import QUESTION, ask, asked, data_address, png, refusal, said, shown
from tests.http.conftest import Serving


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed(width: int, height: int) -> bytes:
    """A PNG that claims a size, and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


PNG = png()
EVERYWHERE: list[Any] = [True, -1, 1e300, "x", [], {}, [[]], {"a": {}}, "\x00", "\ud800", 10**30, [None], -(2**63) - 1]
"""Values that hardly any field takes."""
NOT_TAKEN: dict[str, list[Any]] = {
    "model": [*(each for each in EVERYWHERE if not isinstance(each, str)), "", "../x", "\ud800", "x" * 10_000],
    "messages": [*EVERYWHERE, [{}], [{"role": "user"}], [{"role": "user", "content": []}], [1], ["x"]],
    "stream": [each for each in EVERYWHERE if not isinstance(each, bool)],
    "stream_options": [each for each in EVERYWHERE if each != {}],
    "max_tokens": [*(each for each in EVERYWHERE), 0, 1.5, 65],
    "max_completion_tokens": [*EVERYWHERE, 0, 1.5],
    "temperature": [*(each for each in EVERYWHERE if each is not True), float("1e999"), 1e-9],
    "top_p": [*EVERYWHERE, 0, 1.5],
    "seed": [each for each in EVERYWHERE if each != -1],
    "stop": [each for each in EVERYWHERE if each not in ("x", "\x00", [])] + ["", [""], ["a"] * 5, [1]],
    "n": [each for each in EVERYWHERE if each is not True] + [0, 2, 1.0],
    "keep": [*EVERYWHERE, 0, "AUTO"],
    "share": [*EVERYWHERE, 0, 1],
    "cuts": [*EVERYWHERE, [2], [0.5, 0.5], ["a"], [1e300]],
    "fastv": [*(each for each in EVERYWHERE if each != {}), {"views": 1}],
    "response_format": [
        *EVERYWHERE,
        {"type": "regex"},
        *({"type": "regex", "regex": each} for each in ("(", "(?=a)b", "\ud800", "[", "\\1(a)", 5)),
        *(
            {"type": "json_schema", "json_schema": {"name": "x", "schema": each}}
            for each in (
                {"type": "nothing"},
                {"$ref": "#/nowhere"},
                {"$ref": "https://example.org/schema"},
                {"type": "string", "pattern": "("},
                {"enum": []},
                {"minimum": "a"},
                {"properties": 5},
                {"allOf": [{"type": "string"}, {"type": "integer"}]},
                {"x-guidance": {}},
                "text",
                [],
                5,
            )
        ),
        {"type": "json_schema", "json_schema": {"name": "x"}},
    ],
    "logprobs": [True, 5],
    "tools": [[{}], {"a": 1}, 5],
    "functions": [[{}]],
    "logit_bias": [{"1": 5}],
    "no_such_field": EVERYWHERE,
    "\ud800": [1],
    "__class__": [1],
}
ADDRESSES = [
    "",
    "x",
    "data:",
    "data:,",
    "data:image/png;base64",
    "data:image/png;base64,",
    "data:image/png;base64,!!!!",
    "data:image/svg+xml,<svg/>",
    "data:text/html,<script>alert(1)</script>",
    data_address(b"\x00" * 1000),
    data_address(PNG[: len(PNG) // 2]),
    data_address(PNG[:30]),
    data_address(claimed(50_000, 50_000)),
    data_address(claimed(2**31 - 1, 2**31 - 1)),
    data_address(claimed(0, 0)),
    data_address(claimed(100, 100)),
    data_address(b"%PDF-1.4"),
    data_address(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    data_address(b"GIF89a\xff\xff\xff\xff"),
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "file:///dev/zero",
    "file:///proc/self/environ",
    "file:etc/passwd",
    "FILE:///etc/passwd",
    "file:///%00",
    "file:///" + "a/" * 5000,
    "http://127.0.0.1:1/x",
    "https://127.0.0.1:1/x",
    "HTTP://[",
    "ftp://127.0.0.1/x",
    "javascript:alert(1)",
    "/etc/passwd",
    "../../etc/passwd",
    "\x00",
    "\ud800",
    "data:image/png;base64,\ud800",
    "x" * 100_000,
]
CONTENTS: list[Any] = [
    None,
    5,
    [5],
    [{}],
    [{"type": "text"}],
    [{"type": "text", "text": 5}],
    [{"type": "text", "text": "x", "more": 1}],
    [{"type": "image"}],
    [{"type": "image_url"}],
    [{"type": "image_url", "image_url": {}}],
    [{"type": "image_url", "image_url": {"url": data_address(PNG), "detail": "low"}}],
    [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
    [{"type": "video_url", "video_url": {"url": data_address(b"\x00" * 50, "video/mp4")}}],
    "\ud800",
    "<image>",
    "<image>" * 30,
    " ",
    "",
    "x" * 1_000_000,
    [said("x")] * 150_000,
]
ROLES: list[Any] = ["tool", "function", "assistant", "system", "developer", "", "\ud800", 5, [], {}]
"""Of the last message, none of them the user's."""
LITERAL = [
    b"",
    b"null",
    b"5",
    b'"x"',
    b"[]",
    b"{",
    b"{}",
    b'{"a": 1, "a": 2}',
    b'{"seed": NaN}',
    b'{"seed": Infinity}',
    b'{"seed": ' + b"9" * 5000 + b"}",
    b'{"seed": 1e999999}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"\x00" * 100,
    b"PK\x03\x04",
    b"{'model': 'tiny'}",
]


def fields() -> st.SearchStrategy[bytes]:
    """A request of which one field has a value that it does not take."""
    pairs = [(name, value) for name, values in NOT_TAKEN.items() for value in values]
    return st.sampled_from(pairs).map(lambda pair: encoded(asked(**{"max_tokens": 1} | {pair[0]: pair[1]})))


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def messages() -> st.SearchStrategy[bytes]:
    image = st.sampled_from(ADDRESSES).map(lambda address: asked(shown(address), said(QUESTION), max_tokens=1))
    content = st.sampled_from(CONTENTS).map(
        lambda content: asked() | {"messages": [{"role": "user", "content": content}]}
    )
    role = st.sampled_from(ROLES).map(lambda role: asked() | {"messages": [{"role": role, "content": QUESTION}]})
    return st.one_of(image, image, content, role).map(encoded)


def broken() -> st.SearchStrategy[bytes]:
    """Bytes that are no JSON: cut off, or with a byte that stands nowhere in it."""
    whole = encoded(asked(said(QUESTION)))
    cut = st.integers(0, len(whole) - 1).map(lambda end: whole[:end])
    changed = st.integers(1, len(whole) - 1).map(lambda at: whole[:at] + b"\xff" + whole[at:])
    return st.one_of(st.sampled_from(LITERAL), cut, changed, st.binary(max_size=200))


@pytest.fixture(scope="module")
def app(serving: Serving) -> FastAPI:
    return serving.app()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=st.one_of(fields(), messages(), broken()), stream=st.booleans())
def test_a_hostile_body_is_refused(app: FastAPI, body: bytes, stream: bool) -> None:
    if stream and body.endswith(b"}"):
        body = body.replace(b'"max_tokens": 1}', b'"max_tokens": 1, "stream": true}')
    refusal(ask(app, body))


def test_the_server_lives_on(app: FastAPI, serving: Serving) -> None:
    assert ask(app, asked(max_tokens=1)).status_code == 200
    assert (serving.scheduler.running, serving.scheduler.waiting) == (0, 0)


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_no_value_that_is_not_taken_is_left_out(app: FastAPI, name: str) -> None:
    """The 200 are drawn: these are all that they are drawn from."""
    for value in NOT_TAKEN[name]:
        refusal(ask(app, encoded(asked(**{"max_tokens": 1} | {name: value}))))


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda address: ascii(address[:30]))
def test_no_address_either(app: FastAPI, address: str) -> None:
    refusal(ask(app, encoded(asked(shown(address), said(QUESTION), max_tokens=1))))


def test_nor_what_stands_in_messages(app: FastAPI) -> None:
    for content in CONTENTS:
        refusal(ask(app, encoded(asked() | {"messages": [{"role": "user", "content": content}]})))
    for role in ROLES:
        refusal(ask(app, encoded(asked() | {"messages": [{"role": role, "content": QUESTION}]})))
    for body in LITERAL:
        refusal(ask(app, body))
