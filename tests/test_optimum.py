"""`optimum-cli export fastv` is fastv-export."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from optimum.commands.optimum_cli import main as optimum_cli

from fastv_export.quantization.presets import FEW_BITS
from fastv_runtime.config.bundle import read_manifest
from tests.conftest import MakeBundle


def test_it_writes_the_same_bundle(
    tiny_llava: Path, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.fastv"
    arguments = [str(tiny_llava), "-o", str(output), "--layer", "2", "--keep", "0.5", "--target", "ort", "--no-verify"]
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "fastv", *arguments])
    optimum_cli()  # what the script does
    # Of the CPU's default precision.
    assert read_manifest(output) == read_manifest(make_bundle(tiny_llava, verify=False, weights=FEW_BITS["int8"]))


def _exit(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "fastv", *arguments])
    with pytest.raises(SystemExit) as caught:
        optimum_cli()
    return caught.value.code


def test_it_has_the_same_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit(["--help"], monkeypatch) == 0
    listed = capsys.readouterr().out
    for flag in (
        "SOURCE",
        "--revision",
        "--output",
        "--target",
        "--layer",
        "--keep",
        "--no-prune",
        "--json",
        "--debug",
    ):
        assert flag in listed


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("nowhere", [], "nowhere: no such checkpoint"),
        ("", ["--keep", "2"], "error: argument --keep: 2: must be above 0 and at most 1"),
    ],
)
def test_bad_input_ends_in_one_line(
    tiny_llava: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    arguments: list[str],
    message: str,
) -> None:
    assert _exit([source or str(tiny_llava), "-o", str(tmp_path / "out.fastv"), *arguments], monkeypatch) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("optimum-cli")]
    assert len(lines) == 1
    assert lines[0].startswith(f"optimum-cli export fastv: {message}")
    assert list(tmp_path.iterdir()) == []
