"""Outputs that are inputs, other outputs, or a bundle's files: refused by one line, and what is there stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fastv_runtime.cli import bench, run
from fastv_runtime.config.bundle import MANIFEST
from fastv_runtime.replaced import BUNDLE_FILE
from tests.conftest import noise_image

Main = Callable[[Sequence[str]], None]


def test_what_is_read_is_not_replaced(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert BUNDLE_FILE == MANIFEST
    image, link, away = tmp_path / "image.png", tmp_path / "link.png", tmp_path / "away.png"
    noise_image(0).save(image)
    link.symlink_to(image)
    manifest, twice, inside = tiny_bundle / "bundle.json", tmp_path / "twice", tiny_bundle / "processor" / "x.png"
    away.symlink_to(inside)
    asked = ("--image", image, "--prompt", "What?")
    before = (manifest.read_bytes(), image.read_bytes(), sorted(tiny_bundle.rglob("*")))
    cases: list[tuple[Main, tuple[str | Path, ...], str]] = [
        (bench.main, ("--json", manifest), f"--json {manifest}: is within the bundle"),
        (bench.main, (*asked, "--report", image), f"--report {image}: --image is the same file"),
        (bench.main, ("--json", twice, "--report", twice), f"--report {twice}: --json is the same file"),
        (bench.main, ("--profile", image, "--save-profile", link), f"--save-profile {link}: --profile is the same"),
        (run.main, (*asked, "--show-kept", image), f"--show-kept {image}: --image is the same file"),
        (run.main, (*asked, "--show-kept", link), f"--show-kept {link}: --image is the same file"),
        (run.main, (*asked, "--show-kept", inside), f"--show-kept {inside}: is within the bundle"),
        (run.main, (*asked, "--show-kept", away), f"--show-kept {away}: is within the bundle"),
    ]
    for main, flags, said in cases:
        with pytest.raises(SystemExit) as caught:
            main([str(tiny_bundle), *map(str, flags)])
        printed = capsys.readouterr()
        assert caught.value.code == 2 and printed.out == "" and len(printed.err.splitlines()) == 1
        assert said in printed.err
    assert before == (manifest.read_bytes(), image.read_bytes(), sorted(tiny_bundle.rglob("*")))
