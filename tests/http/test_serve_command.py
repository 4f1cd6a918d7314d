"""fastv-serve: where it listens, what it refuses at once, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from fastv_runtime import Pipeline
from fastv_runtime.cli.fastv import main as fastv
from fastv_runtime.cli.serve import main as fastv_serve
from tests.http.asking import IMAGE, QUESTION, asked, until
from tests.http.conftest import client_of

Fails = Callable[..., str]


@pytest.fixture
def fails(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """The one line with which the command ends."""

    def run(*flags: object) -> str:
        with pytest.raises(SystemExit) as caught:
            fastv_serve([str(tiny_bundle), *map(str, flags)])
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert not captured.out and captured.err.count("\n") == 1
        return captured.err

    return run


def test_a_port_in_use_is_one_line(fails: Fails) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails("--port", port)
    assert line.startswith(f"fastv-serve: --port {port}: cannot listen at 127.0.0.1: address already in use")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could ask without a key: give --api-key-file, or --no-api-key"),
        (["--host", "::"], "--host ::: others could ask without a key"),
        (["--host", "no.such.host.invalid", "--no-api-key"], "--host no.such.host.invalid: no such host"),
        (["--api-key-file", "/no/keys"], "--api-key-file /no/keys: cannot be read: No such file or directory"),
        (["--api-key-file", "/no/keys", "--no-api-key"], "--no-api-key: there is a file of keys"),
        (["--allow-files", "/no/directory"], "--allow-files /no/directory: no such directory"),
        (["--cors-origin", "example.org"], "--cors-origin example.org: must be an origin such as https://"),
        (["--port", "65536"], "--port 65536: must be a whole number, 0 to 65,535"),
        (["--slots", "0"], "--slots 0: must be a whole number"),
        (["--deadline", "0"], "--deadline 0: must be a number of seconds above 0"),
        (["--keep", "2"], "--keep 2: must be above 0 and at most 1, or auto"),
        (["--model-name", "x" * 201], "--model-name: must be at most 200 printable characters"),
        (["--triton", "models", "--cors-origin", "https://a.example"], "--cors-origin: is of this server"),
        (["--triton", "models", "--keep", "0.5"], "--keep: a repository of Triton's has no place for it"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(fails: Fails, flags: list[str], message: str) -> None:
    assert message in fails("--port", "0", *flags) if "--port" not in flags else message in fails(*flags)


def test_no_bundle(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        fastv(["serve", str(tmp_path / "none"), "--port", "0"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"fastv-serve: {tmp_path}/none")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named(fails: Fails, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert fails("--port", "0") == (
        f"fastv-serve: {package.replace('_', '-')} is not installed: "
        "pip install -e '.[serve]' in the clone of fastv-edge\n"
    )


def test_a_repository_for_triton(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fastv_serve([str(tiny_bundle), "--triton", str(tmp_path), "--slots", "3", "--model-name", "eye", "--json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"model": str(tmp_path / "eye")}
    config = (tmp_path / "eye" / "config.pbtxt").read_text()
    assert 'key: "slots" value { string_value: "3" }' in config


SLOW = """
import sys, time
from fastv_runtime.cli.serve import main
from fastv_runtime.generation.calls.streaming import TokenLoop

advance = TokenLoop.advance
TokenLoop.advance = lambda loop: (time.sleep(0.03), advance(loop))[1]
main()
assert "torch" not in sys.modules
"""
"""The command, with tokens that take so long that there is a middle of an answer."""


class Started:
    """fastv-serve in a process of its own."""

    def __init__(self, bundle: Path, *flags: str):
        command = [sys.executable, "-c", SLOW, str(bundle), "--threads", "1", "--json", *flags]
        command += [] if "--port" in flags else ["--port", "0"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            # A shell starts what is in its background with SIGINT ignored, and tests may be there.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr and self.process.stderr.read()
        ready = json.loads(line)
        self.address, self.model = ready["url"], ready["model"]

    def end(self, signum: int) -> tuple[int, str]:
        """The exit code and what was said, once it has ended."""
        self.process.send_signal(signum)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def _environment() -> dict[str, str]:
    import fastv_runtime

    source = str(Path(str(fastv_runtime.__file__)).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}


Start = Callable[..., Started]


@pytest.fixture
def start(tiny_bundle: Path) -> Iterator[Start]:
    begun: list[Started] = []

    def start(*flags: str) -> Started:
        begun.append(Started(tiny_bundle, *flags))
        return begun[-1]

    yield start
    for each in begun:
        each.process.kill()
        each.process.communicate()


def request(server: Started, **fields: object) -> dict[str, object]:
    return asked(**fields) | {"model": server.model}


def test_an_answer_in_progress_is_finished_before_it_ends(start: Start, tiny_pipeline: Pipeline) -> None:
    server = start("--model-name", "eye", "--quiet")
    assert server.model == "eye"
    stream = client_of(server.address).chat.completions.create(**request(server, stream=True, max_tokens=20))
    next(iter(stream))  # there is no text in it
    server.process.send_signal(signal.SIGTERM)
    chunks = list(stream)
    expected = tiny_pipeline.generate(IMAGE, QUESTION, max_new_tokens=20)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert chunks[-1].choices[0].finish_reason == expected.finish_reason
    assert server.process.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.address}/health")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_being_told_to_end_is_no_failure(start: Start, signum: int, tiny_bundle: Path) -> None:
    server = start()
    assert server.model == tiny_bundle.name.removesuffix(".fastv")
    assert httpx.get(f"{server.address}/health/ready").json()["status"] == "ready"
    assert httpx.get(f"{server.address}/health", headers={"Host": "evil.example"}).status_code == 421
    code, said = server.end(signum)
    assert code == 0
    assert said.splitlines() == [
        f"fastv-serve: {server.model} at {server.address} (Ctrl-C stops)",
        "fastv-serve: stopped",
    ]


def test_killed_in_the_middle_of_a_stream_its_clients_see_an_end(start: Start) -> None:
    server = start()
    port = server.address.rpartition(":")[2]
    stream = client_of(server.address).chat.completions.create(**request(server, stream=True, max_tokens=64))
    next(iter(stream))
    server.process.kill()
    begin = time.monotonic()
    with pytest.raises((httpx.TransportError, openai.APIError)):
        list(stream)
    assert time.monotonic() - begin < 10
    server.process.wait(30)
    again = start("--port", port)
    assert again.address == server.address
    assert client_of(again.address).chat.completions.create(**request(again, max_tokens=2)).choices


def test_keys_of_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret\n")
    server = start("--host", "0.0.0.0", "--api-key-file", str(tmp_path / "keys"), "--slots", "2", "--deadline", "9")
    address = server.address.replace("0.0.0.0", "127.0.0.1")
    until(lambda: httpx.get(f"{address}/health/ready").status_code == 200)
    assert client_of(address, "secret").chat.completions.create(**request(server, max_tokens=2)).choices
    with pytest.raises(openai.AuthenticationError):
        client_of(address).chat.completions.create(**request(server, max_tokens=2))
