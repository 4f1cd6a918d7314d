"""Standard streams that are closed or full: a line where that can be, the documented exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import noise_image
from tests.ends.conftest import Start

FULL = "standard output: the disk is full"
CLOSED = "standard output is closed"


def closed_output() -> None:
    """As a shell's `>&-`, of which Python makes no stream."""
    os.close(1)
    sys.stdout = None  # type: ignore[assignment]


def closed_errors() -> None:
    os.close(2)
    sys.stderr = None  # type: ignore[assignment]


def full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def full_errors() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


def test_output_that_cannot_be_printed(start: Start, tiny_bundle: Path) -> None:
    asked = ("run", tiny_bundle, "--prompt", "What?", "--max-new-tokens", "2")
    for command, prepare, message in (
        (asked, closed_output, CLOSED),
        (asked, full_output, FULL),
        ((*asked, "--json"), full_output, FULL),
        (("inspect", tiny_bundle, "--json"), closed_output, CLOSED),
        (("inspect", tiny_bundle), full_output, FULL),
    ):
        apart = start(*command, prepare=prepare)
        assert apart.code() == 2, apart.err
        assert message in apart.said[-1]
        assert "Traceback" not in apart.err and "Exception ignored" not in apart.err


def test_an_export_prints_nothing_and_needs_no_output(start: Start, tiny_llava: Path, tmp_path: Path) -> None:
    given = ("export", tiny_llava, "-o", tmp_path / "out.fastv", "--precision", "fp32", "--no-verify")
    refused = start(*given, "--json", prepare=closed_output)
    assert refused.code() == 2 and CLOSED in refused.said[0]
    assert list(tmp_path.iterdir()) == []
    assert start(*given, prepare=closed_output).code() == 0
    # Nothing that was opened meanwhile has got what libraries print.
    assert b"fastv" not in (tmp_path / "out.fastv" / "onnx" / "prefix.onnx.data").read_bytes()


@pytest.mark.parametrize("prepare", [closed_errors, full_errors])
def test_errors_that_cannot_be_printed_leave_the_exit_code(start: Start, tmp_path: Path, prepare: object) -> None:
    command = start("inspect", tmp_path, prepare=prepare)
    assert command.code() == 2
    assert command.out == command.err == ""


def test_nothing_but_the_error_is_printed(start: Start, tiny_bundle: Path, tmp_path: Path) -> None:
    quick = ("--rounds", "2", "--warmup", "0", "--max-new-tokens", "2", "--threads", "1")
    for given in (
        ("export", tmp_path, "-o", tmp_path),
        ("calibrate", tmp_path, "--data", tmp_path / "gone", "-o", tmp_path / "calibration.json"),
        ("bench", tiny_bundle, *quick, "-q", "--json", "/dev/full"),
    ):
        command = start(*given)
        assert command.code() == 2, command.err
        assert command.err.startswith(f"fastv-{given[0]}: ") and command.err.count("\n") == 1, command.err


def test_a_shell_closes_them(tiny_bundle: Path) -> None:
    module = f'"{sys.executable}" -m fastv_runtime.cli'
    inspect = f'"{sys.executable}" -c "from fastv_runtime.cli.inspect import main; main()"'
    import fastv_runtime

    environment = os.environ | {"PYTHONPATH": str(Path(str(fastv_runtime.__file__)).parents[1]), "PYTHONUNBUFFERED": ""}
    for line, code in (
        (f'{inspect} "{tiny_bundle}" >&-', 2),
        (f'{inspect} "{tiny_bundle}" > /dev/full', 2),
        (f"{inspect} /no/such 2>&-", 2),
        (f"{inspect} --help > /dev/full", 2),
        (f"{inspect} --version > /dev/full", 2),
        (f"PYTHONUNBUFFERED=1 {inspect} --help > /dev/full", 2),
        (f"PYTHONUNBUFFERED=1 {inspect} --version > /dev/full", 2),
        (f"{module} --help > /dev/full", 2),
        (f"{module} > /dev/full", 2),
        (f"PYTHONUNBUFFERED=1 {module} --version > /dev/full", 2),
    ):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == code, line
        assert done.stdout == "" and len(done.stderr.splitlines()) == ("2>&-" not in line), done.stderr


def test_a_report_may_go_to_standard_output_while_an_image_goes_to_a_link(
    start: Start, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "link.png").symlink_to("kept.png")
    noise_image(0).save(tmp_path / "image.png")
    shown = ("--image", tmp_path / "image.png", "--prompt", "What?", "--max-new-tokens", "2")
    command = start("run", tiny_bundle, *shown, "--show-kept", tmp_path / "link.png")
    assert command.code() == 0, command.err
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "kept.png").stat().st_size > 1000
