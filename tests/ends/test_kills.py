"""Commands that are told to end, or killed, at any point of their work: what they leave, and who clears it away."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import psutil

from fastv_export.calibration import read_calibration
from fastv_runtime.bench.models import read_report
from fastv_runtime.config.bundle import Bundle
from tests.apart import Apart
from tests.ends.conftest import Start

POLITE = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
QUICK = ["--layers", "1", "--keeps", "0.5", "--answer-tokens", "2", "--min-agreement", "0.1", "--ray", "off"]
BENCH = ["--rounds", "3", "--warmup", "0", "--max-new-tokens", "2", "--threads", "1", "--prompt", "What?"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def timed(command: Apart) -> float:
    """Seconds that a command takes when it is left alone."""
    begun = time.monotonic()
    assert command.code() == 0, command.err
    return time.monotonic() - begun


def killed(command: Apart, signum: int, seconds: float) -> int:
    command.process.join(seconds)
    if command.process.is_alive():
        command.send(signum)
    return command.code()


def points(seed: int, whole: float, count: int) -> list[float]:
    """Seconds at which to kill, spread over a run at random."""
    shares = (np.arange(count) + np.random.default_rng(seed).random(count)) / count
    return [float(share) * whole for share in shares]


def check_end(command: Apart, signum: int, code: int) -> None:
    """It had ended already, or ended as it was told, with a line that says so."""
    if signum == signal.SIGKILL:
        assert code in (0, -signal.SIGKILL)
        return
    # What arrives before the command listens, or after it ended its work, ends a process without a word.
    assert code in (0, 128 + signum, -signum), command.err
    if code == 128 + signum:
        reason = "interrupted" if signum == signal.SIGINT else f"ended by {signal.Signals(signum).name}"
        assert [line.partition(": ")[2] for line in command.said] == [reason]
    assert "Traceback" not in command.err or code == -signum


def test_an_export_that_is_killed_anywhere(start: Start, tiny_llava: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.fastv"
    given = ("export", tiny_llava, "-o", output, "--precision", "fp32", "--no-verify")
    whole = timed(start(*given))
    for number, seconds in enumerate(points(0, whole, 5)):
        signum = (*POLITE, signal.SIGKILL, signal.SIGKILL)[number]
        if output.exists():
            output.rename(tmp_path.with_name(f"{tmp_path.name}-{number}"))
        command = start(*given)
        code = killed(command, signum, seconds)
        check_end(command, signum, code)
        assert output.exists() == (code == 0)
        left = names(tmp_path) - {output.name}
        assert left == set() or code == -signum
    # One that is surely at work is killed; the next names what it left, and leaves nothing itself.
    if output.exists():
        output.rename(tmp_path.with_name(f"{tmp_path.name}-last"))
    command = start(*given)
    command.until(lambda: any(tmp_path.glob(".out.fastv.partial-*/onnx/*.onnx")))
    command.send(signal.SIGKILL)
    assert command.code() == -signal.SIGKILL
    assert len(list(tmp_path.glob(".out.fastv.partial-*"))) == 1
    command = start(*given)
    assert command.code() == 0
    assert "removed, left by a process that was killed (" in " ".join(command.err.split())
    Bundle.open(output)
    assert names(tmp_path) == {output.name}


def test_a_calibration_that_is_killed_anywhere_goes_on(
    start: Start, tiny_llava: Path, samples: Path, tmp_path: Path
) -> None:
    given = ("calibrate", tiny_llava, "--data", samples, *QUICK, "--report")
    expected = tmp_path / "expected"
    expected.mkdir()
    whole = timed(start(*given, expected / "out.html", "-o", expected / "out.json"))
    output = tmp_path / "killed" / "out.json"
    output.parent.mkdir()
    for number, seconds in enumerate(points(1, whole, 4)):
        signum = (signal.SIGKILL, *POLITE)[number]
        command = start(*given, output.with_suffix(".html"), "-o", output)
        check_end(command, signum, killed(command, signum, seconds))
    assert start(*given, output.with_suffix(".html"), "-o", output).code() == 0
    assert read_calibration(output) == read_calibration(expected / "out.json")
    for path in expected.rglob("*"):
        if path.is_file() and path.suffix != ".html":
            assert (output.parent / path.relative_to(expected)).read_bytes() == path.read_bytes(), path
    assert names(output.parent) == names(expected)


def lingering(mark: Path) -> list[psutil.Process]:
    """Processes that were given a path under `mark`."""
    return [each for each in psutil.process_iter(["cmdline"]) if str(mark) in " ".join(each.info["cmdline"] or ())]


def test_a_benchmark_that_is_killed_anywhere_takes_its_runners_along(
    start: Start, dense_bundle: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "marked.fastv"
    mark.symlink_to(dense_bundle)
    outputs = ("--json", tmp_path / "out.json", "--report", tmp_path / "out.html")
    for number, signum in enumerate((signal.SIGKILL, signal.SIGHUP)):
        command = start("bench", mark, *outputs, *BENCH)
        command.until(lambda: bool(lingering(mark)))  # the one that measures memory, while it loads
        time.sleep(0.5 * number)
        code = killed(command, signum, 0)
        check_end(command, signum, code)
        deadline = time.monotonic() + 15
        while lingering(mark):
            assert time.monotonic() < deadline, lingering(mark)
            time.sleep(0.02)
        left = names(tmp_path) - {mark.name}
        assert left <= ({".out.json.lock", ".out.html.lock"} if signum == signal.SIGKILL else {"out.json", "out.html"})
    assert start("bench", mark, *outputs, *BENCH).code() == 0
    assert read_report(tmp_path / "out.json").complete
    assert names(tmp_path) == {mark.name, "out.json", "out.html"}


def ignore() -> None:
    """As nohup does, and a shell for its background jobs."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_signals_that_are_ignored_stay_ignored(start: Start, tiny_llava: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.fastv"
    command = start("export", tiny_llava, "-o", output, "--precision", "fp32", "--no-verify", prepare=ignore)
    command.until(lambda: any(tmp_path.glob(".out.fastv.partial-*")))
    command.send(signal.SIGHUP)
    command.send(signal.SIGINT)
    assert command.code() == 0, command.err
