"""Two commands at one place, and readers of a bundle that is being made."""

from __future__ import annotations

import signal
from pathlib import Path

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.errors import UserError
from tests.ends.conftest import Start

QUICK = ["--layers", "1", "--keeps", "0.5", "--answer-tokens", "2", "--min-agreement", "0.1", "--ray", "off"]


def test_the_second_of_two_exports_is_refused_when_it_starts(start: Start, tiny_llava: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.fastv"
    first = start("export", tiny_llava, "-o", output, "--precision", "fp32", "--no-verify")
    first.until(lambda: any(tmp_path.glob(".out.fastv.partial-*")))
    first.send(signal.SIGSTOP)
    second = start("export", tiny_llava, "-o", output)
    assert second.code() == 2
    (line,) = second.said
    assert f"{output}: another process is writing it: wait until that ends, or write to another place" in line
    assert len(list(tmp_path.glob(".out.fastv.partial-*"))) == 1
    first.send(signal.SIGCONT)
    # Meanwhile somebody reads: there is no bundle, or a whole one.
    seen = set()
    while first.process.is_alive():
        try:
            Bundle.open(output)
            seen.add("whole")
        except UserError as error:
            assert "no such bundle" in str(error)
            seen.add("none")
    assert first.code() == 0 and "none" in seen
    Bundle.open(output)
    assert list(tmp_path.iterdir()) == [output]


def test_the_second_of_two_calibrations_is_refused_when_it_starts(
    start: Start, tiny_llava: Path, samples: Path, tmp_path: Path
) -> None:
    first = start("calibrate", tiny_llava, "--data", samples, "-o", tmp_path / "out.json", *QUICK)
    first.until((tmp_path / "out.samples.jsonl").exists)
    first.send(signal.SIGSTOP)
    for output in ("out.json", "out.other"):  # whose measurements are kept in the same file
        second = start("calibrate", tiny_llava, "--data", samples, "-o", tmp_path / output, *QUICK)
        assert second.code() == 2
        (line,) = second.said
        assert "out.samples.jsonl: another process is writing it" in line
    first.send(signal.SIGCONT)
    assert first.code() == 0
    assert len((tmp_path / "out.samples.jsonl").read_text().splitlines()) == 1 + 6


def test_the_second_of_two_benchmarks_is_refused_when_it_starts(
    start: Start, tiny_bundle: Path, tmp_path: Path
) -> None:
    # As many rounds as take longer than this process may be kept from its turn.
    given = ("bench", tiny_bundle, "--json", tmp_path / "out.json", "--prompt", "What?", "--rounds", "1000")
    first = start(*given)
    first.until((tmp_path / ".out.json.lock").exists)
    first.send(signal.SIGSTOP)
    second = start(*given)
    assert second.code() == 2
    assert "out.json: another process is writing it" in second.said[0]
    first.send(signal.SIGKILL)
    first.code()
