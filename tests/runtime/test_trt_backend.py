"""`--backend trt`, from engines that fastv-build recorded to an answer, on the fake device; and what it refuses."""

from __future__ import annotations

import importlib.machinery
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from fastv_runtime import Bundle, Pipeline, UserError
from fastv_runtime.backends.tensorrt.device import Device, local_device
from fastv_runtime.backends.tensorrt.module import PythonModule, TensorRt
from fastv_runtime.cli.run import main as fastv_run
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.tensorrt_build.builder import BuildResult, build_engines
from fastv_runtime.tensorrt_build.check import tensorrt_loader
from tests.built import GPU, Capability, Layer, as_trt
from tests.conftest import noise_image
from tests.fakes.cuda import FakeCuda
from tests.fakes.tensorrt import fake_tensorrt

QUESTION = "What color is it?"


def compile_fake(path: Path, spec: GraphSpec, profiles: list[Any], *_: Any) -> bytes:
    """An "engine" of the fake TensorRT."""
    axes = [
        {
            axis: (shapes.min[index], shapes.max[index])
            for tensor in spec.inputs
            if (shapes := profile[tensor.name]) and tensor.name != "length"
            for index, axis in enumerate(tensor.shape)
            if isinstance(axis, str)
        }
        for profile in profiles
    ]
    return json.dumps({"graph": str(path), "profiles": axes}).encode()


def machine(monkeypatch: pytest.MonkeyPatch, *modules: PythonModule, version: str = "10.16.0") -> Device:
    """Make this a machine with a GPU and TensorRTs, the first of which is the device's."""
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setattr("fastv_runtime.backends.tensorrt.gpu.find_gpu", lambda: GPU)
    made = {}
    for name in ("tensorrt", "tensorrt_rtx"):
        made[name] = fake_tensorrt(cuda, name)
        made[name].ComputeCapability, made[name].LayerType = Capability, Layer
        made[name].__version__ = version
        made[name].__spec__ = importlib.machinery.ModuleSpec(name, None) if name in modules else None
        monkeypatch.setitem(sys.modules, name, made[name] if name in modules else None)  # type: ignore[arg-type]
    return local_device(TensorRt(modules[0], version, made[modules[0]]), GPU)


def build(source: Path, copy: Path, device: Device) -> BuildResult:
    bundle = as_trt(Bundle.open(shutil.copytree(source, copy)))
    return build_engines(bundle, device, load=tensorrt_loader(device.tensorrt), compile=compile_fake)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return machine(monkeypatch, "tensorrt")


@pytest.fixture
def built(tiny_bundle: Path, tmp_path: Path, device: Device) -> BuildResult:
    return build(tiny_bundle, tmp_path / "built.fastv", device)


def test_engines_pass_their_self_test_and_answer(built: BuildResult, tmp_path: Path, tiny_pipeline: Pipeline) -> None:
    assert not built.failed
    for record in built.receipt.engines.values():
        assert record.self_test is not None
        assert record.self_test.passed
    answers = [
        pipeline.generate([noise_image(0)], QUESTION, max_new_tokens=8, ignore_stop=True)
        for pipeline in (Pipeline.load(tmp_path / "built.fastv", backend="trt"), tiny_pipeline)
    ]
    assert [answer.backend for answer in answers] == ["trt cuda", "ort cpu"]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].kept_visual_tokens == answers[1].kept_visual_tokens


def test_the_module_is_the_one_that_built_the_engines(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tiny_bundle, tmp_path / "rtx.fastv", machine(monkeypatch, "tensorrt_rtx", "tensorrt"))
    answer = Pipeline.load(tmp_path / "rtx.fastv", backend="trt").generate([], QUESTION, max_new_tokens=2)
    assert answer.backend == "trt-rtx cuda"


def test_the_command_says_what_ran(built: BuildResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise_image(0).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "built.fastv"), "--image", str(tmp_path / "a.png"), "--prompt", QUESTION, "--json"]
    fastv_run([*arguments, "--backend", "trt", "--device", "cuda", "--max-new-tokens", "2"])
    assert json.loads(capsys.readouterr().out)["backend"] == "trt cuda"


def test_a_bundle_without_engines_says_how_to_build_them(tiny_bundle: Path, device: Device) -> None:
    with pytest.raises(UserError, match=r"no engines are built: run fastv-build"):
        Pipeline.load(tiny_bundle, backend="trt")


def test_engines_of_another_gpu_or_version_are_refused(
    built: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, "tensorrt", version="10.16.1")
    with pytest.raises(UserError, match=r"built with 10\.16\.0 and this is TensorRT 10\.16\.1: run fastv-build"):
        Pipeline.load(tmp_path / "built.fastv", backend="trt")
    monkeypatch.setattr(
        "fastv_runtime.backends.tensorrt.gpu.find_gpu", lambda: type(GPU)("Thor", "SM110", 20, 1 << 36, True)
    )
    with pytest.raises(UserError, match=r"engines are built for trt-orin.* and this is trt-thor-sm110-20mp"):
        Pipeline.load(tmp_path / "built.fastv", backend="trt")


def test_a_tampered_engine_is_not_loaded(built: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = built.folder / "prefix.engine"
    engine.write_bytes(engine.read_bytes().replace(b"prefix", b"suffix"))
    monkeypatch.setattr("tests.fakes.tensorrt.Engine", None)  # nothing may come to it
    with pytest.raises(UserError, match=r"prefix\.engine: its sha256 is not the receipt's"):
        Pipeline.load(tmp_path / "built.fastv", backend="trt")


def test_a_stale_engine_is_refused(built: BuildResult, tmp_path: Path, device: Device) -> None:
    bundle = Bundle.open(tmp_path / "built.fastv")
    name = bundle.manifest.graphs["select"].file
    digest = bundle.manifest.files[name].model_copy(update={"sha256": "0" * 64})
    manifest = bundle.manifest.model_copy(update={"files": bundle.manifest.files | {name: digest}})
    with pytest.raises(UserError, match="the engine of select is of another export of this bundle: run fastv-build"):
        Pipeline(Bundle(bundle.path, manifest), backend="trt")
