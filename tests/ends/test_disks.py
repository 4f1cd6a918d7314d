"""Disks that are full, read-only or of somebody else: one line that names the file, exit code 2, nothing left."""

from __future__ import annotations

import resource
from functools import partial
from pathlib import Path

from fastv_runtime.config.bundle import Bundle
from tests.apart import Apart
from tests.conftest import noise_image
from tests.ends.conftest import Start

QUICK = ["--layers", "1", "--keeps", "0.5", "--answer-tokens", "2", "--min-agreement", "0.1", "--ray", "off"]


def limit_files(size: int) -> None:
    """No file may become larger; Python ignores SIGXFSZ, so that a write beyond fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def refusal(command: Apart) -> str:
    """The one line of a command that ends with code 2."""
    assert command.code() == 2, command.err
    assert command.out == ""
    assert "Traceback" not in command.err
    (line,) = command.said
    return line


def test_an_export_that_finds_no_room(start: Start, tiny_llava: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.fastv"
    given = ("export", tiny_llava, "-o", output, "--layer", "2", "--precision", "fp32", "--no-verify")
    assert start(*given).code() == 0  # graphs are traced: of what is written next, the bundle's files alone are large
    output.rename(tmp_path.with_name(f"{tmp_path.name}-whole"))
    for size, file in (
        (6_000, "tokenizer.json"),
        (50_000, "out.fastv/onnx/vision.onnx.data"),
        (150_000, "out.fastv/onnx/prefix.onnx.data"),
        (250_000, "out.fastv/onnx/suffix.onnx.data"),
    ):
        line = refusal(start(*given, prepare=partial(limit_files, size)))
        assert f"{file}: the file is larger than the disk or a limit" in line
        assert list(tmp_path.iterdir()) == []


def test_a_calibration_that_finds_no_room_keeps_what_it_measured(
    start: Start, tiny_llava: Path, samples: Path, tmp_path: Path
) -> None:
    given = ("calibrate", tiny_llava, "--data", samples, "-o", tmp_path / "out.json", *QUICK)
    line = refusal(start(*given, prepare=partial(limit_files, 20_000)))
    assert f"{tmp_path}/out." in line and ": the file is larger" in line
    assert not (tmp_path / "out.json").exists()
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.suffix == ".lock"]
    assert start(*given).code() == 0


def test_an_image_of_what_was_kept_that_finds_no_room(start: Start, tiny_bundle: Path, tmp_path: Path) -> None:
    noise_image(0).save(tmp_path / "image.png")
    asked = ("run", tiny_bundle, "--image", tmp_path / "image.png", "--prompt", "What?", "--max-new-tokens", "2")
    command = start(*asked, "--show-kept", tmp_path / "kept.png", prepare=partial(limit_files, 1_000))
    assert command.code() == 2, command.err
    assert "kept.png: the file is larger" in command.said[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_outputs_where_nothing_can_be_written_are_refused_before_the_work(
    start: Start, tiny_llava: Path, tiny_bundle: Path, samples: Path, tmp_path: Path
) -> None:
    """/proc refuses root as well. Nothing is loaded: a model that cannot be loaded does not matter."""
    broken = tmp_path / "broken"
    broken.mkdir()
    noise_image(0).save(tmp_path / "image.png")
    shown = ("--image", tmp_path / "image.png", "--prompt", "What?")
    missing = tmp_path / "nowhere"
    for folder, message in (("/proc", "cannot be written"), (missing, "no such directory")):
        for command in (
            start("export", broken, "-o", f"{folder}/out.fastv"),
            start("calibrate", broken, "--data", samples, "-o", f"{folder}/out.json", *QUICK),
            start("run", broken, *shown, "--show-kept", f"{folder}/out.png"),
        ):
            line = refusal(command)
            assert message in line and str(folder) in line
    for flag in ("--json", "--report", "--save-profile"):
        line = refusal(start("bench", tmp_path / "no.fastv", flag, "/proc/out"))
        assert "/proc/out: cannot be written" in line
    line = refusal(
        start("calibrate", broken, "--data", samples, "-o", tmp_path / "out.json", "--report", "/proc/x", *QUICK)
    )
    assert "/proc/x: cannot be written" in line
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "image.png"}
    Bundle.open(tiny_bundle)
