"""Which TensorRT, which device: one clear line for everything that does not go together."""

from __future__ import annotations

import pytest

from fastv_runtime.backends.tensorrt import module
from fastv_runtime.backends.tensorrt.device import check_precision, check_weights, choose_device, computes
from fastv_runtime.backends.tensorrt.module import BuildTarget, PythonModule, choose_backend, load_tensorrt
from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.config.plan import Weights
from fastv_runtime.errors import UserError
from tests.built import GPU, OldLayer, device, tensorrt


def graph(dialect: str = "trt", needs: str | None = "10.15") -> GraphSpec:
    return GraphSpec.model_validate(
        {"file": "onnx/a.onnx", "dialect": dialect, "opset": 24, "tensorrt": needs, "inputs": (), "outputs": ()}
    )


def test_capabilities_are_named_as_people_write_them() -> None:
    chosen = choose_device(tensorrt(), None, ["sm_120", "8.6", "SM86"])
    assert chosen.capabilities == ("SM86", "SM120")
    assert chosen.name == "rtx-sm86-sm120"
    assert chosen.gpu is None


def test_the_gpu_at_hand_is_the_default() -> None:
    assert choose_device(tensorrt(), GPU) == choose_device(tensorrt(), GPU, ["SM86"])
    assert choose_device(tensorrt(), GPU, ["SM89"]).gpu is None, "its engines cannot be tested here"
    assert choose_device(tensorrt("tensorrt", "10.15.1"), GPU).name == "trt-orin-nvgpu-sm86-8mp"


@pytest.mark.parametrize(
    ("backend", "gpu", "capabilities", "message"),
    [
        ("tensorrt_rtx", None, [], "no GPU is at hand: say what to build for.*SM75, SM86, SM89, SM120"),
        ("tensorrt_rtx", None, ["SM87"], "`capabilities` SM87: .*it knows SM75, SM86"),
        ("tensorrt_rtx", None, ["ampere"], "`capabilities` ampere: not one: give it as SM86 or 8.6"),
        ("tensorrt", None, [], "no GPU is at hand, and TensorRT builds on the device.*run fastv-build there"),
        ("tensorrt", GPU, ["SM86"], "`capabilities`: .*only TensorRT-RTX takes it"),
    ],
)
def test_an_unknown_device_is_refused(backend: PythonModule, gpu: None, capabilities: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_device(tensorrt(backend), gpu, capabilities)


def test_a_gpu_that_rtx_does_not_know_is_sent_to_tensorrt() -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match=r"H100 is SM90, which TensorRT-RTX 1\.7\.1 does not build for.*`target` trt"):
        choose_device(tensorrt(), replace(GPU, name="H100", capability="SM90"))


def test_turing_computes_no_bfloat16() -> None:
    check_precision(device("SM75"), "float16")
    check_precision(device("SM86"), "bfloat16")
    with pytest.raises(
        UserError, match=r"SM75 does not compute in bfloat16: export again with `export.precision` fp16"
    ):
        check_precision(device("SM75", "SM86"), "bfloat16")


@pytest.mark.parametrize(
    ("name", "old", "new"), [("fp8", ("SM80", "SM86"), ("SM89", "SM120")), ("nvfp4", ("SM89",), ("SM120",))]
)
def test_floating_point_of_few_bits_is_refused_where_it_is_not(
    name: str, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    weights = Weights(bits=8 if name == "fp8" else 4, block=None, floating=True)
    check_weights(device(*new), weights)
    check_weights(device(*old), None)
    check_weights(device(*old), Weights(bits=4, block=64))
    assert [computes(each, weights) for each in (*old, *new)] == [False] * len(old) + [True] * len(new)
    since = "SM89" if name == "fp8" else "SM100"
    with pytest.raises(UserError, match=f"{old[0]} does not compute in {name}, which GPUs do since {since}: export"):
        check_weights(device(*old, *new), weights)


def test_a_graph_too_new_for_this_tensorrt_names_the_flag() -> None:
    for version in ("10.15.1", "10.16.0", "11.0"):
        tensorrt("tensorrt", version).require("prefix", graph())
    tensorrt("tensorrt", "10.3.0", OldLayer).require("prefix", graph("trt-legacy", "10.3"))
    with pytest.raises(
        UserError, match=r"prefix needs TensorRT 10\.15 .* this is 10\.3\.0: .*with `export.target` trt-legacy"
    ):
        tensorrt("tensorrt", "10.3.0").require("prefix", graph())
    tensorrt().require("prefix", graph())
    with pytest.raises(UserError, match=r"ATTENTION_INPUT, which TensorRT-RTX 1\.0\.0 lacks: upgrade it"):
        tensorrt(version="1.0.0", layers=OldLayer).require("prefix", graph())


def test_a_bundle_for_onnx_runtime_is_refused() -> None:
    with pytest.raises(UserError, match=r"prefix is of the dialect ort, .*export again with `export.target` trt"):
        tensorrt().require("prefix", graph("ort", None))


@pytest.mark.parametrize(
    ("here", "target", "rtx", "chosen"),
    [
        (["tensorrt", "tensorrt_rtx"], None, False, "tensorrt"),
        (["tensorrt", "tensorrt_rtx"], None, True, "tensorrt_rtx"),
        (["tensorrt", "tensorrt_rtx"], "trt-rtx", False, "tensorrt_rtx"),
        (["tensorrt_rtx"], None, False, "tensorrt_rtx"),
    ],
)
def test_what_is_installed_is_chosen(
    monkeypatch: pytest.MonkeyPatch, here: list[str], target: BuildTarget | None, rtx: bool, chosen: PythonModule
) -> None:
    monkeypatch.setattr(module, "installed", here.__contains__)
    assert choose_backend(target, rtx) == chosen


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"no TensorRT is installed: pip install -e '\.\[trt\]' in the clone.*rtx instead.*JetPack"),
        ("trt", r"tensorrt is not installed: pip install -e '\.\[trt\]' in the clone"),
        ("trt-rtx", r"tensorrt-rtx is not installed: pip install -e '\.\[rtx\]'"),
    ],
)
def test_a_tensorrt_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, target: BuildTarget | None, message: str
) -> None:
    monkeypatch.setattr(module, "installed", lambda name: False)
    with pytest.raises(UserError, match=message):
        choose_backend(target)
    with pytest.raises(UserError, match="is not installed"):
        load_tensorrt("tensorrt_rtx")
