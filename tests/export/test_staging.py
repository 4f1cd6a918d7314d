"""Disks that are full: said before anything is written where that can be known, and nothing left behind either way."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.staging import staging
from fastv_runtime import UserError
from fastv_runtime.files import DISK

Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_named_before_the_first_graph(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []
    monkeypatch.setattr("fastv_export.graphs.write.build_graph", lambda name, *_: traced.append(name))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 1 << 30, 1000))
    with pytest.raises(UserError, match=r"out.fastv: needs 1\.\d MiB, its disk has 0\.0 MiB free: free some space"):
        export_bundle(tiny_llava, tmp_path / "out.fastv", Options(), Progress(None))
    assert traced == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_nothing(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    count = 0

    def full(self: CheckpointTensor, file: Any) -> None:
        nonlocal count
        count += 1
        if count >= 5:
            raise OSError(code, "no space")
        file.write(b"\0" * self.nbytes)

    monkeypatch.setattr(CheckpointTensor, "tofile", full)
    with pytest.raises(
        UserError, match=rf"out.fastv/onnx/\w+.onnx.data: {DISK[code]}: free some space, or write to another disk"
    ):
        export_bundle(tiny_llava, tmp_path / "out.fastv", Options(), Progress(None))
    assert count >= 5
    assert list(tmp_path.iterdir()) == []


def test_other_failures_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), staging(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "not yours")
    assert list(tmp_path.iterdir()) == []
