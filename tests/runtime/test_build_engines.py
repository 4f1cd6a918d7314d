"""Building and finding engines, with ONNX files in their place: what is built again, kept aside, and refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fastv_runtime.backends.tensorrt.find import find_engines
from fastv_runtime.backends.tensorrt.receipt import RECEIPT, read_receipt
from fastv_runtime.config.bundle import Bundle, FileDigest, GraphSpec
from fastv_runtime.errors import UserError
from fastv_runtime.tensorrt_build.builder import BuildResult, build_engines, outdated
from tests.built import as_trt, compile_onnx, device, load_onnx, tensorrt

GRAPHS = {"vision", "prefix", "select", "suffix"}
DEVICE = device("SM86", "SM89")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return as_trt(Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "copy.fastv")))


@pytest.fixture
def built(bundle: Bundle) -> BuildResult:
    return build_engines(bundle, DEVICE, load=load_onnx, compile=compile_onnx)


def damaged(path: Path, spec: GraphSpec, *_: Any) -> bytes:
    """The suffix's largest weight, negated."""
    model = onnx.load(path)
    if path.stem == "suffix":
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.raw_data = (-np.frombuffer(weight.raw_data, np.float32)).tobytes()
    return model.SerializeToString()


def test_every_graph_is_built_tested_and_found(bundle: Bundle, built: BuildResult) -> None:
    assert set(built.built) == set(built.receipt.engines) == GRAPHS
    assert not built.failed
    for record in built.receipt.engines.values():
        assert record.self_test is not None
        assert record.self_test.passed
        assert record.self_test.difference < 1e-4
        assert record.self_test.cosine == pytest.approx(1)
    assert read_receipt(built.folder) == built.receipt
    engines = find_engines(bundle, device("SM89"))
    assert engines == {name: built.folder / f"{name}.engine" for name in GRAPHS}
    assert {path.name for path in built.folder.iterdir()} == {RECEIPT, *(path.name for path in engines.values())}
    Bundle.open(bundle.path)  # engines are not the manifest's affair


def test_only_what_changed_is_built_again(bundle: Bundle, built: BuildResult) -> None:
    (built.folder / "suffix.engine").write_bytes(b"torn")
    (built.folder / "vision.engine").unlink()
    files = bundle.manifest.files | {"onnx/select.onnx": FileDigest(sha256="1" * 64, size=1)}
    changed = Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files}))
    assert set(outdated(changed, DEVICE, None)) == {"suffix", "vision", "select"}
    again = build_engines(changed, DEVICE, load=load_onnx, compile=compile_onnx)
    assert set(again.built) == {"suffix", "vision", "select"}
    assert again.receipt.engines["prefix"] == built.receipt.engines["prefix"]
    assert set(find_engines(changed, DEVICE)) == GRAPHS


@pytest.mark.parametrize(
    ("other", "workspace"), [(device("SM86", "SM89", version="1.8.0"), None), (DEVICE, 1 << 30)], ids=str
)
def test_another_tensorrt_or_workspace_builds_everything_again(
    bundle: Bundle, built: BuildResult, other: Any, workspace: int | None
) -> None:
    again = build_engines(bundle, other, workspace=workspace, compile=compile_onnx)
    assert set(again.built) == GRAPHS


def test_without_a_gpu_engines_are_untested_until_there_is_one(bundle: Bundle) -> None:
    first = build_engines(bundle, DEVICE, compile=compile_onnx)
    assert all(record.self_test is None for record in first.receipt.engines.values())
    assert json.loads((first.folder / RECEIPT).read_text())["engines"]["suffix"]["self_test"] is None
    second = build_engines(bundle, DEVICE, load=load_onnx, compile=compile_onnx)
    assert second.built == ()
    assert all(record.self_test is not None for record in second.receipt.engines.values())


def test_an_engine_that_computes_something_else_is_kept_aside(bundle: Bundle) -> None:
    outcome = build_engines(bundle, DEVICE, load=load_onnx, compile=damaged)
    assert set(outcome.failed) == {"suffix"}
    record = outcome.receipt.engines["suffix"]
    assert record.file == "suffix.engine.failed"
    assert (outcome.folder / record.file).is_file()
    assert not (outcome.folder / "suffix.engine").exists()
    assert record.self_test is not None
    assert record.self_test.difference > record.self_test.limit
    with pytest.raises(UserError, match=r"suffix\.engine\.failed: failed its self-test: differs .* run fastv-build"):
        find_engines(bundle, DEVICE)
    mended = build_engines(bundle, DEVICE, load=load_onnx, compile=compile_onnx)
    assert mended.built == ("suffix",)
    assert not (outcome.folder / "suffix.engine.failed").exists()
    assert set(find_engines(bundle, DEVICE)) == GRAPHS


def test_an_untested_engine_that_turns_out_bad_is_kept_aside(bundle: Bundle) -> None:
    build_engines(bundle, DEVICE, compile=damaged)
    outcome = build_engines(bundle, DEVICE, load=load_onnx, compile=damaged)
    assert outcome.built == ()
    assert set(outcome.failed) == {"suffix"}
    assert not (outcome.folder / "suffix.engine").exists()


def test_an_engine_that_does_not_load_or_computes_nan_is_kept_aside(bundle: Bundle) -> None:
    def broken(path: Path, spec: GraphSpec, *_: Any) -> bytes:
        model = onnx.load(path)
        if path.stem == "prefix":
            return b"not an engine"
        if path.stem == "suffix":
            weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
            weight.raw_data = np.full(len(weight.raw_data) // 4, np.nan, np.float32).tobytes()
        return model.SerializeToString()

    outcome = build_engines(bundle, DEVICE, load=load_onnx, compile=broken)
    assert set(outcome.failed) == {"prefix", "suffix"}
    assert "cannot load this graph" in outcome.failed["prefix"]
    record = outcome.receipt.engines["suffix"].self_test
    assert record is not None
    assert np.isnan(record.difference)
    again = read_receipt(outcome.folder)  # a receipt with NaN can be read
    assert again is not None
    assert set(again.usable()) == {"vision", "select"}


def test_an_interrupted_build_goes_on_where_it_was(bundle: Bundle) -> None:
    def interrupted(path: Path, spec: GraphSpec, *rest: Any) -> bytes:
        if path.stem == "select":
            raise KeyboardInterrupt
        return compile_onnx(path, spec, *rest)

    with pytest.raises(KeyboardInterrupt):
        build_engines(bundle, DEVICE, compile=interrupted)
    folder = bundle.path / "engines" / DEVICE.name
    assert {path.name for path in folder.iterdir()} == {RECEIPT, "vision.engine", "prefix.engine"}
    with pytest.raises(UserError, match="no engine for the graph select: run fastv-build"):
        find_engines(bundle, DEVICE)
    assert set(build_engines(bundle, DEVICE, compile=compile_onnx).built) == {"select", "suffix"}


def _edit(folder: Path, **changes: object) -> None:
    receipt = json.loads((folder / RECEIPT).read_text())
    (folder / RECEIPT).write_text(json.dumps(receipt | changes))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no engines are built: run fastv-build"),
        (lambda folder: _flip(folder / "suffix.engine"), r"suffix\.engine: its sha256 is not the receipt's"),
        (lambda folder: (folder / "suffix.engine").unlink(), r"suffix\.engine: is missing: run fastv-build"),
        (lambda folder: _edit(folder, tensorrt="1.6.0"), r"built with 1\.6\.0 and this is TensorRT-RTX 1\.7\.1: run"),
        (lambda folder: _edit(folder, backend="tensorrt"), "engines are built for rtx-sm86-sm89 and this is"),
        (lambda folder: _edit(folder, receipt_version=9), r"receipt version 9 is not this program's 1: remove"),
        (lambda folder: _edit(folder, surprise=1), r"receipt\.json: surprise is no field"),
        (
            lambda folder: (folder / RECEIPT).write_bytes(b"\xff\xfe"),
            r"receipt\.json: not a text file in UTF-8: ",
        ),
    ],
)
def test_engines_that_do_not_fit_are_refused(
    bundle: Bundle, built: BuildResult, harm: Callable[[Path], None], message: str
) -> None:
    harm(built.folder)
    with pytest.raises(UserError, match=message) as caught:
        find_engines(bundle, DEVICE)
    assert "\n" not in str(caught.value)


def test_engines_of_another_export_or_device_are_refused(bundle: Bundle, built: BuildResult) -> None:
    files = bundle.manifest.files | {"onnx/prefix.onnx.data": FileDigest(sha256="1" * 64, size=1)}
    other = Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files}))
    with pytest.raises(UserError, match="the engine of prefix is of another export of this bundle"):
        find_engines(other, DEVICE)
    with pytest.raises(UserError, match="built for rtx-sm86-sm89 and this is rtx-sm120"):
        find_engines(bundle, device("SM120"))


def test_a_receipt_cannot_name_files_elsewhere(bundle: Bundle, built: BuildResult) -> None:
    text = (built.folder / RECEIPT).read_text().replace('"suffix.engine"', '"../suffix.engine"')
    (built.folder / RECEIPT).write_text(text)
    with pytest.raises(UserError, match=r"\.\./suffix\.engine lies outside"):
        find_engines(bundle, DEVICE)


def test_a_bundle_for_onnx_runtime_is_not_touched(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="of the dialect ort"):
        build_engines(as_trt(bundle, dialect="ort"), DEVICE, compile=compile_onnx)
    assert not (bundle.path / "engines").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_bundle_that_cannot_be_written_to_says_so(bundle: Bundle) -> None:
    bundle.path.chmod(0o555)
    with pytest.raises(UserError, match="copy it somewhere writable"):
        build_engines(bundle, DEVICE, compile=compile_onnx)
    bundle.path.chmod(0o755)


def test_versions_older_than_the_graphs_are_refused_before_anything_is_built(bundle: Bundle) -> None:
    from dataclasses import replace

    old = replace(DEVICE, tensorrt=tensorrt("tensorrt", "10.7.0"))
    with pytest.raises(UserError, match=r"with `export\.target` trt-legacy"):
        build_engines(bundle, old, compile=compile_onnx)
