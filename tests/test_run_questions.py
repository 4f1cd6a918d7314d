"""fastv-run: where questions and images come from, conversations, and what is printed."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fastv_runtime import ChatSession, Pipeline
from fastv_runtime.cli import sources
from fastv_runtime.cli.run import main as fastv_run
from fastv_runtime.preprocessing import addresses
from tests.conftest import noise_image

QUESTIONS = ["What color is it?", "Is it?"]
IMAGE, OTHER = noise_image(0), noise_image(1)


def png(image: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "image.png").write_bytes(png(IMAGE))
    return tmp_path / "image.png"


Say = Callable[[bytes], None]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Say:
    """Puts bytes into the standard input."""

    def say(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return say


@pytest.fixture
def run(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run the command on the tiny bundle: what it printed, and what it said beside that."""

    def run(*arguments: object, most: int = 6) -> tuple[str, str]:
        fastv_run([str(tiny_bundle), "--threads", "1", "--max-new-tokens", str(most), *map(str, arguments)])
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def fails(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with code 2; the line that says why."""

    def fails(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            run(*arguments)
        captured = capsys.readouterr()
        assert ended.value.code == 2
        line: str = captured.err.splitlines()[-1]
        assert line.startswith("fastv-run: ")
        return line

    return fails


Fails = Callable[..., str]


def tokens(pipeline: Pipeline, question: str, *images: Any, **options: Any) -> list[int]:
    return pipeline.generate(list(images), question, max_new_tokens=6, **options).token_ids


def test_a_question_and_an_image_come_from_the_standard_input(
    run: Run, stdin: Say, file: Path, tiny_pipeline: Pipeline
) -> None:
    expected = tokens(tiny_pipeline, QUESTIONS[0], IMAGE)
    stdin(f"{QUESTIONS[0]}\n".encode())
    assert json.loads(run("--image", file, "--prompt", "-", "--json")[0])["token_ids"] == expected
    stdin(png(IMAGE))
    assert json.loads(run("--image", "-", "--prompt", QUESTIONS[0], "--json")[0])["token_ids"] == expected


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_several_questions_are_answered_each_by_itself(
    run: Run, stdin: Say, file: Path, tmp_path: Path, tiny_pipeline: Pipeline, source: str
) -> None:
    lines = f"\ufeff{QUESTIONS[0]}\r\n\r\n  {QUESTIONS[1]}".encode()
    (tmp_path / "questions.txt").write_bytes(lines)
    stdin(lines)
    given = tmp_path / "questions.txt" if source == "file" else "-"
    out, _ = run("--image", file, "--prompts", given, "--json")
    answers = [json.loads(line)["token_ids"] for line in out.splitlines()]
    assert answers == [tokens(tiny_pipeline, question, IMAGE) for question in QUESTIONS]
    stdin(lines)
    _, err = run("--image", file, "--prompts", given)
    assert err.count("visual tokens kept") == 2
    assert err.count("loaded in") == 1


def test_answers_come_while_the_standard_input_is_still_open(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []

    class Asking(io.BytesIO):
        def readline(self, *_: Any) -> bytes:
            printed.append(capsys.readouterr().out)
            return f"{QUESTIONS[len(printed) - 1]}\n".encode() if len(printed) <= 2 else b""

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Asking(), encoding="utf-8"))
    run("--prompts", "-", "--json")
    assert [text.count("\n") for text in printed] == [0, 1, 1]


def test_a_line_that_cannot_be_asked_is_named(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("Why?\n" + "word " * 300)
    assert f"{tmp_path}/long.txt:2: " in fails("--prompts", tmp_path / "long.txt")
    (tmp_path / "latin.txt").write_bytes(b"Why?\nWo\xdf?\n")
    assert "latin.txt:2: not UTF-8 (byte 2)" in fails("--prompts", tmp_path / "latin.txt")
    (tmp_path / "blank.txt").write_text("\n \n")
    assert "blank.txt: no prompt in it" in fails("--prompts", tmp_path / "blank.txt")
    assert "none.txt: cannot be read: No such file" in fails("--prompts", tmp_path / "none.txt")


def test_a_system_message_stands_before_the_question(run: Run, file: Path, tiny_pipeline: Pipeline) -> None:
    out, _ = run("--image", file, "--system", "Be brief.", "--prompt", QUESTIONS[0], "--json")
    parts = [{"type": "image"}, {"type": "text", "text": QUESTIONS[0]}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    expected = tiny_pipeline.generate(IMAGE, messages=messages, max_new_tokens=6)
    assert json.loads(out)["token_ids"] == expected.token_ids
    assert expected.prompt_tokens > tiny_pipeline.generate(IMAGE, QUESTIONS[0], max_new_tokens=1).prompt_tokens


def test_a_conversation_remembers_and_starts_over(
    run: Run, stdin: Say, file: Path, tmp_path: Path, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[dict[str, Any]], Any]] = []
    stream = ChatSession.stream

    def watched(self: ChatSession, *arguments: Any) -> Any:
        before = self.messages
        generation = stream(self, *arguments)
        assert self._waiting is not None
        seen.append(([*before, self._waiting[0]], generation.answer))
        return generation

    monkeypatch.setattr(ChatSession, "stream", watched)
    (tmp_path / "an other.png").write_bytes(png(OTHER))
    lines = [
        "a",
        "",
        "/image none.png",
        f"/image {tmp_path / 'an other.png'}",
        "word " * 300,
        "c",
        "/clear",
        "a",
        "/what",
    ]
    stdin("\n".join(lines).encode())
    out, err = run("-i", "--image", file, "--system", "d", most=3)
    assert len(seen) == 3, err
    roles = [[message["role"] for message in messages] for messages, _ in seen]
    turns = ["system", "user", "assistant", "user"]
    assert roles == [turns[:2], turns, turns[:2]]
    assert [answer.visual_tokens for _, answer in seen] == [144, 288, 144]
    assert seen[0][1].token_ids == seen[2][1].token_ids, "all is forgotten but the image of the command line"
    assert seen[1][0][2]["content"] == seen[0][1].text.strip()
    monkeypatch.undo()
    again = tiny_pipeline.generate(messages=seen[1][0], max_new_tokens=3)
    assert again.token_ids == seen[1][1].token_ids
    assert out == "".join(f"{answer.text.lstrip()}\n" for _, answer in seen)
    flat = " ".join(err.split())
    for said in (
        "none.png: no such image",
        "--max-visual (or start over: /clear)",
        "/what: not known: ask something; /image FILE",
    ):
        assert said in flat


def test_an_interrupted_answer_is_forgotten_and_the_conversation_goes_on(
    run: Run, stdin: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastv_runtime.generation.decoding.linked import LinkedDecoder

    step, calls = LinkedDecoder.step, []

    def interrupted(self: Any, rows: int) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        step(self, rows)

    monkeypatch.setattr(LinkedDecoder, "step", interrupted)
    stdin("\n".join(QUESTIONS).encode())
    out, err = run("-i")
    assert "interrupted: that question and its answer are forgotten" in err
    assert err.count("first token after") == 1
    assert out.count("\n") >= 2


def test_what_is_printed_begins_with_no_space_and_says_how_fast_it_was(
    run: Run, monkeypatch: pytest.MonkeyPatch, file: Path, tiny_pipeline: Pipeline
) -> None:
    tokenizer = tiny_pipeline._slot.model.prompts.tokenizer
    ids = tokenizer("  a circle \n", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr("fastv_runtime.generation.sampling.Sampler.greedy", False)
    script = {"left": iter(())}
    monkeypatch.setattr("fastv_runtime.generation.sampling.Sampler.pick", lambda self, logits: next(script["left"], 1))
    arguments = ("--prompt", "What?")
    script["left"] = iter(ids)
    out, err = run("--image", file, *arguments, most=32)
    assert out == "a circle \n\n"
    figures = err.splitlines()[-1]
    assert "72 of 144 visual tokens kept; first token after " in figures
    assert " tokens/s after it; loaded in " in figures
    script["left"] = iter(ids)
    out, err = run(*arguments, "--json", most=32)
    assert json.loads(out)["text"] == tokenizer.decode(ids) == "  a circle \n"
    script["left"] = iter(())
    out, err = run(*arguments, most=32)
    assert out == "\n"
    assert "visual tokens kept" not in err
    assert "tokens/s" not in err, "one token alone has no rate"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --prompt --prompts -i/--interactive is required"),
        (["--prompt", "x", "-i"], "not allowed with argument"),
        (["--prompt", "-", "--image", "-"], "--prompt -: the standard input is read by --image - already"),
        (["--prompts", "-", "--image", "-"], "--prompts -: the standard input is read by --image - already"),
        (["-i", "--image", "-"], "--interactive: the standard input is read by --image - already"),
        (["--prompt", "x", "--image", "-", "-"], "--image -: the standard input is read by --image - already"),
        (["-i", "--json"], "--json: is for programs"),
        (["-i", "--show-kept", "a.png"], "--show-kept: shows what one question kept, and --interactive has many"),
        (["--prompt", "x", "--allow-url"], "--allow-url: there is no address"),
        (["--prompt", "x", "--system", " "], "--system ' ': must not be empty"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tiny_bundle: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        fastv_run([str(tiny_bundle), *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_what_the_standard_input_cannot_be(fails: Fails, stdin: Say) -> None:
    stdin(b"")
    assert "the standard input: the prompt is empty" in fails("--prompt", "-")
    stdin(b"")
    assert "the standard input: empty, there is no image" in fails("--prompt", "x", "--image", "-")
    stdin(b"\xff\xfe?")
    assert "the standard input: not UTF-8 (byte 0)" in fails("--prompt", "-")
    stdin(b"no image")
    assert "the standard input: " in fails("--prompt", "x", "--image", "-")


def test_a_closed_standard_input_is_said(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after a shell's `<&-`
    for flags in (["--prompt", "-"], ["--prompts", "-"], ["--prompt", "x", "--image", "-"], ["-i"]):
        assert "fastv-run: standard input is closed" in fails(*flags)


def test_what_never_ends_is_not_read_whole(fails: Fails, stdin: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "fastv-run: /dev/zero: larger than 64 MiB" in fails("--prompts", "/dev/zero")
    monkeypatch.setattr(sources, "MOST_BYTES", 1 << 20)
    for flags in (["--prompt", "-"], ["--prompts", "-"], ["--prompt", "x", "--image", "-"]):
        stdin(bytes((1 << 20) + 1))
        assert "fastv-run: the standard input: more than 1 MiB" in fails(*flags)


class Site(BaseHTTPRequestHandler):
    """An image, redirects, errors, and two that never end."""

    def do_GET(self) -> None:
        moved = {
            "/moved": "/image.png",
            "/file": "file:///etc/passwd",
            "/ftp": "ftp://127.0.0.1/x",
            "/data": "data:image/png;base64,AA==",
            "/loop": "/loop",
        }
        if self.path in moved:
            self.send_response(302)
            self.send_header("Location", moved[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/image.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png(IMAGE))
        elif self.path in ("/large", "/slow"):
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(200):
                    self.wfile.write(bytes(1 << 16) if self.path == "/large" else b"x")
                    if self.path == "/slow":
                        time.sleep(0.05)
            except OSError:
                pass
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses_are_opened_where_that_is_allowed(run: Run, site: str, tiny_pipeline: Pipeline) -> None:
    expected = tokens(tiny_pipeline, QUESTIONS[0], IMAGE)
    data = f"data:image/png;base64,{base64.b64encode(png(IMAGE)).decode()}"
    for address in (f"{site}/image.png", f"{site}/moved", data):
        out, _ = run("--allow-url", "--image", address, "--prompt", QUESTIONS[0], "--json")
        assert json.loads(out)["token_ids"] == expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "404 Not Found"),
        ("/file", "not allowed"),
        ("/ftp", "only http and https are followed"),
        ("/data", "not allowed"),
        ("/loop", "302"),
        ("/large", "more than 1 MiB: download it"),
        ("/slow", "s: download it, and give the file"),
    ],
)
def test_what_an_address_may_not_do(
    fails: Fails, site: str, path: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(addresses, "SECONDS", 0.5)
    begin = time.monotonic()
    line = fails("--allow-url", "--image", f"{site}{path}", "--prompt", "x")
    assert line.startswith(f"fastv-run: {site}{path}: ")
    assert message in line
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:1/x", "cannot be fetched"),
        ("http:///x", "no host in the address"),
        ("https://[", "cannot be fetched"),
        ("http://a b/", "cannot be fetched"),
        ("data:image/png;base64,!", "data:image/png;base64,!: "),
        ("data:,", "empty, there is no image in it"),
        (f"data:image/png,{'x' * 500}", f"data:image/png,{'x' * 65}...: "),
        ("file:///etc/passwd", "no such image"),
        ("ftp://127.0.0.1/x", "no such image"),
    ],
)
def test_addresses_that_are_none(fails: Fails, address: str, message: str) -> None:
    assert message in fails("--allow-url", "--image", address, "--prompt", "x")


@pytest.mark.parametrize("address", ["http://127.0.0.1/x", "HTTPS://127.0.0.1/x", "data:image/png;base64,AA=="])
def test_addresses_are_not_opened_unasked(fails: Fails, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "fetch", None)
    assert "an address: give --allow-url" in fails("--image", address, "--prompt", "x")
