"""Opening a bundle: whole, unchanged and of a known schema, or one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fastv_runtime import Bundle, UserError
from fastv_runtime.config.bundle import MANIFEST


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy.fastv"))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit(path: Path, **changes: object) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | changes))


def _unlisted(path: Path) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["files"]["onnx/suffix.onnx"]
    _edit(path, files=manifest["files"])


def _outside(path: Path) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"]["../outside"] = next(iter(manifest["files"].values()))
    _edit(path, files=manifest["files"])


def test_an_unchanged_copy_opens_and_every_byte_is_hashed(copy: Path) -> None:
    hashed: list[int] = []
    bundle = Bundle.open(copy, progress=hashed.append)
    assert sum(hashed) == bundle.total_bytes
    listed = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert listed == {*bundle.manifest.files, MANIFEST}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: _flip(path / "onnx" / "suffix.onnx.data"), r"suffix\.onnx\.data: its sha256.*export it again"),
        (lambda path: _flip(path / "embed_tokens.bin"), r"embed_tokens\.bin: its sha256"),
        (lambda path: (path / "onnx" / "prefix.onnx").unlink(), r"onnx/prefix\.onnx is missing"),
        (lambda path: (path / "onnx" / "select.onnx").write_bytes(b""), r"select\.onnx: 0 bytes where the manifest"),
        (lambda path: _edit(path, schema_version=99), "schema version 99 is newer.*upgrade fastv-edge"),
        (lambda path: _edit(path, schema_version=6), "schema version 6 is too old"),
        (lambda path: _edit(path, plan=None), r"bundle\.json: plan is null: must be an object: copy"),
        (lambda path: _edit(path, surprise=1), r"bundle\.json: surprise is no field that this program knows"),
        (lambda path: (path / MANIFEST).write_text("{"), r"bundle\.json: not JSON: line 1, column 2: "),
        (lambda path: (path / MANIFEST).write_bytes(b"\xff\xfe\x00"), "not a text file in UTF-8"),
        (lambda path: (path / MANIFEST).unlink(), "not a bundle"),
        (lambda path: shutil.rmtree(path), "no such bundle"),
        (_outside, r"files: '\.\./outside' is no path inside the bundle"),
        (_unlisted, r"onnx/suffix\.onnx is not listed in files"),
    ],
)
def test_a_damaged_bundle_is_refused(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        Bundle.open(copy)
    assert "\n" not in str(caught.value)


def test_the_embedding_table_is_not_loaded(tiny_bundle: Path) -> None:
    table = Bundle.open(tiny_bundle).embedding()
    assert table.filename is not None
    assert not table.flags.writeable
