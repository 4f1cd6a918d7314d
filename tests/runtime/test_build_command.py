"""fastv-build: what it prints, how it exits. TensorRT and the GPU are stand-ins; the engines are ONNX files."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastv_runtime.backends.tensorrt import gpu, module
from fastv_runtime.cli import build as command
from fastv_runtime.config.bundle import MANIFEST
from fastv_runtime.tensorrt_build import builder, check, preflight
from fastv_runtime.tensorrt_build.builder import build_engines
from tests.built import GPU, compile_onnx, load_onnx, tensorrt


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Its manifest says that its graphs are TensorRT's."""
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "copy.fastv"))
    manifest = json.loads((path / MANIFEST).read_text())
    for graph in manifest["graphs"].values():
        graph |= {"dialect": "trt", "tensorrt": "10.15"}
    (path / MANIFEST).write_text(json.dumps(manifest))
    return path


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board with TensorRT-RTX and a GPU."""
    monkeypatch.setattr(module, "choose_backend", lambda target, rtx_wanted: "tensorrt_rtx")
    monkeypatch.setattr(module, "load_tensorrt", lambda backend: tensorrt())
    monkeypatch.setattr(gpu, "find_gpu", lambda: GPU)
    monkeypatch.setattr(check, "tensorrt_loader", lambda tensorrt: load_onnx)
    monkeypatch.setattr(builder, "build_engines", partial(build_engines, compile=compile_onnx))


def exits(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        command.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_engines_are_built_and_tested_on_the_gpu_at_hand(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([str(bundle), "--json"])
    captured = capsys.readouterr()
    receipt = json.loads(captured.out)
    assert receipt["device"]["gpu"] == GPU.name
    assert all(engine["self_test"]["passed"] for engine in receipt["engines"].values())
    assert "4 of 4 engines built with TensorRT-RTX 1.7.1" in captured.err
    assert "not tested" not in captured.err
    assert (bundle / "engines" / "rtx-sm86" / "suffix.engine").is_file()


def test_untested_engines_are_said_to_be(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([str(bundle), "--no-self-test"])
    assert "not tested, as --no-self-test says" in capsys.readouterr().err
    command.main([str(bundle), "--compute-capability", "SM120"])
    assert "not tested: no GPU that runs these engines is at hand" in capsys.readouterr().err


def test_an_engine_that_fails_is_named_and_the_exit_code_is_1(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, *rest: Any) -> bytes:
        return b"not an engine" if path.stem == "select" else compile_onnx(path, *rest)

    monkeypatch.setattr(builder, "build_engines", partial(build_engines, compile=broken))
    assert exits(bundle, "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["engines"]["select"]["file"] == "select.engine.failed"
    assert "select: failed its self-test" in captured.err
    assert "kept aside as select.engine.failed" in captured.err


def test_little_memory_is_warned_of_before_the_build(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda: 1 << 20)
    command.main([str(bundle)])
    assert "warning: building takes about" in capsys.readouterr().err
    command.main([str(bundle)])
    assert "warning" not in capsys.readouterr().err, "nothing is left to build"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workspace", "0"], "--workspace 0: must be above 0 and at most 100,000, in GiB"),
        (["--workspace", "nan"], "--workspace nan: must be above 0"),
        (["--workspace", "9"], "--workspace 9: Orin (nvgpu) has 8.0 GiB: give less"),
        (["--compute-capability", "SM87"], "--compute-capability SM87: TensorRT-RTX 1.7.1 does not build for it"),
        (["--timing-cache", "cache"], "--timing-cache: TensorRT-RTX has none"),
    ],
)
def test_bad_arguments(bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert exits(bundle, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"fastv-build: {message}")
    assert captured.err.count("\n") == 1
    assert not (bundle / "engines").exists()


def test_a_timing_cache_goes_where_it_can_be_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_tensorrt", lambda backend: tensorrt("tensorrt", "10.16.0"))
    assert exits(bundle, "--timing-cache", tmp_path / "nowhere" / "cache") == 2
    assert "not a file in a directory that exists" in capsys.readouterr().err


def test_a_bundle_for_onnx_runtime_says_what_to_export(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exits(tiny_bundle) == 2
    said = capsys.readouterr().err
    assert "of the dialect ort, which TensorRT cannot build: export again with --target trt or trt-rtx" in said


def test_the_wrong_dialect_is_said_before_the_machine_is_asked(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("asked for what no bundle of this kind can use")

    monkeypatch.setattr(module, "choose_backend", never)
    monkeypatch.setattr(gpu, "find_gpu", never)
    assert exits(tiny_bundle) == 2
    assert "of the dialect ort" in capsys.readouterr().err
