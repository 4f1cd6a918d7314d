"""A bundle's hashes are checked once: what is remembered is believed of the same unchanged file alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fastv_runtime import Bundle, UserError
from fastv_runtime.config.bundle import EMBEDDING
from fastv_runtime.integrity import hashes, remembered


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hashes are remembered; files count as settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "SETTLED", -1.0)
    return tmp_path / "cache" / "fastv-edge" / "hashes"


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy.fastv"))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that are hashed."""
    seen: list[str] = []

    def counted(path: Path, *progress: Callable[[int], None]) -> str:
        seen.append(path.name)
        return remembered_sha256(path, *progress)

    remembered_sha256 = hashes.sha256
    monkeypatch.setattr(hashes, "sha256", counted)
    return seen


def test_every_file_is_hashed_once(copy: Path, cache: Path, hashed: list[str]) -> None:
    bundle = Bundle.open(copy)
    assert len(hashed) == len(bundle.manifest.files)
    hashed.clear()
    told: list[int] = []
    assert Bundle.open(copy, progress=told.append) == bundle
    assert hashed == [] and sum(told) == bundle.total_bytes
    Bundle.open(copy, check_hashes=True)
    assert len(hashed) == len(bundle.manifest.files)
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o077 == 0 or cache.stat().st_mode & 0o077 == 0


def test_a_changed_file_is_hashed_again_whatever_its_times_say(copy: Path, cache: Path, hashed: list[str]) -> None:
    Bundle.open(copy)
    hashed.clear()
    file = copy / EMBEDDING
    before, data = file.stat(), bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=f"{EMBEDDING}: its sha256 is not"):
        Bundle.open(copy)
    assert hashed == [EMBEDDING]


def test_a_file_that_was_replaced_or_touched_is_hashed_again(copy: Path, cache: Path, hashed: list[str]) -> None:
    Bundle.open(copy)
    hashed.clear()
    shutil.copy2(copy / EMBEDDING, copy.parent / "same")
    (copy.parent / "same").replace(copy / EMBEDDING)
    Bundle.open(copy)
    assert hashed == [EMBEDDING]
    Bundle.open(copy)
    assert hashed == [EMBEDDING]


def test_another_path_is_not_believed(copy: Path, cache: Path, hashed: list[str]) -> None:
    Bundle.open(copy)
    moved = copy.rename(copy.with_name("moved.fastv"))
    hashed.clear()
    bundle = Bundle.open(moved)
    assert len(hashed) == len(bundle.manifest.files)
    # Nor by what was remembered of one path, put where another's would be.
    (copy.parent / "other").symlink_to(moved)
    hashed.clear()
    Bundle.open(copy.parent / "other")  # the same bundle by another name
    assert hashed == []
    for file in cache.iterdir():
        text = json.loads(file.read_text())
        file.write_text(json.dumps(text | {"bundle": "/elsewhere"}))
    Bundle.open(moved)
    assert len(hashed) == len(bundle.manifest.files)


def test_a_hash_that_the_manifest_no_longer_has_is_not_believed(copy: Path, cache: Path) -> None:
    Bundle.open(copy)
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["files"][EMBEDDING]["sha256"] = "0" * 64
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"{EMBEDDING}: its sha256 is not"):
        Bundle.open(copy)


def test_what_changed_a_moment_ago_is_not_remembered(
    copy: Path, cache: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "SETTLED", 1000.0)
    bundle = Bundle.open(copy)
    Bundle.open(copy)
    assert len(hashed) == 2 * len(bundle.manifest.files)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"version": 2}', '{"version": 1, "bundle": "x", "files": 3}'])
def test_a_damaged_cache_is_no_error(copy: Path, cache: Path, hashed: list[str], text: str) -> None:
    bundle = Bundle.open(copy)
    (file,) = cache.iterdir()
    file.write_text(text)
    Bundle.open(copy)
    assert len(hashed) == 2 * len(bundle.manifest.files)
    hashed.clear()
    Bundle.open(copy)
    assert hashed == []


def test_a_cache_that_cannot_be_is_no_error(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(remembered, "SETTLED", -1.0)
    assert Bundle.open(copy) == Bundle.open(copy)


def test_the_cache_does_not_grow_for_ever(
    copy: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "MOST_BUNDLES", 2)
    for name in ("a", "b", "c"):
        Bundle.open(shutil.copytree(copy, tmp_path / name))
    assert len(list(cache.iterdir())) == 2
