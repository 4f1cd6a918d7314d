"""fp8 and nvfp4: what is rounded to what (by ml_dtypes, which has both), what is written, what a graph computes."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fastv_export.cli import main
from fastv_export.execution.chunked import run_chunked
from fastv_export.execution.fp4_function import OPERATOR, fp4_dynamic_quantize
from fastv_export.execution.runs import ChunkedRun
from fastv_export.graphs.save import save_graph
from fastv_export.passes import quantize_float_activations, quantize_weights
from fastv_export.quantization import float_formats
from fastv_export.quantization.float_formats import Fp8, Nvfp4, e2m1
from fastv_runtime.config.bundle import read_manifest
from tests.export.test_rounding import graph_of

E4M3, E2M1 = ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn
BLOCK = 16
INPUTS, OUTPUTS = 256, 66
VALUES = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(0)) * 0.05
FORMATS = pytest.mark.parametrize("rounding", [Fp8(), Nvfp4()], ids=["fp8", "nvfp4"])


def power_above(value: float) -> float:
    """The least power of two that is no smaller."""
    return float(2.0 ** np.ceil(np.log2(value)))


def witness_fp8(values: np.ndarray, largest: float) -> np.ndarray:
    scale = power_above(largest / 448)
    return np.clip(values / scale, -448, 448).astype(E4M3).astype(np.float32) * scale


def witness_nvfp4(values: np.ndarray, largest: float) -> np.ndarray:
    scale = power_above(largest / (6 * 448))
    blocks = values.reshape(len(values), -1, BLOCK)
    scales = np.minimum(np.abs(blocks).max(-1, keepdims=True) / (6 * scale), 448).astype(E4M3)
    steps = scales.astype(np.float32) * scale
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.clip(np.nan_to_num(blocks / steps), -6, 6).astype(E2M1).astype(np.float32) * steps
    return found.reshape(values.shape)


def test_e2m1_is_nearest_and_ties_are_even() -> None:
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    values = np.array([*ties, *np.linspace(0, 9, 1001)], np.float32)
    values = np.concatenate([values, -values])
    np.testing.assert_array_equal(e2m1(torch.from_numpy(values.copy())), np.clip(values, -6, 6).astype(E2M1))


@pytest.mark.parametrize("held", [1.0, 8.0, 0.25], ids=["all", "more", "a part"])
def test_values_are_rounded_in_the_range_that_is_held(held: float) -> None:
    """Beyond it they are cut off, and never become NaN."""
    values = VALUES.clone()
    values[3] *= 1000
    values[5] *= 1e-6
    values[7] = 0
    largest = held * float(values.abs().max())
    np.testing.assert_array_equal(Fp8(largest=largest).rounded(values), witness_fp8(values.numpy(), largest))
    np.testing.assert_array_equal(Nvfp4(largest=largest).rounded(values), witness_nvfp4(values.numpy(), largest))


@FORMATS
def test_zeros_stay_zeros(rounding: Fp8 | Nvfp4) -> None:
    assert not rounding.rounded(torch.zeros(2, INPUTS)).any()


@FORMATS
def test_a_graph_computes_with_the_rounded_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounding: Fp8 | Nvfp4
) -> None:
    """In blocks of a few outputs as it is written, as it is run, and whole; what it multiplies is left as it is."""
    monkeypatch.setattr(float_formats, "READ", 4 * INPUTS * 4)  # four rows at a time
    monkeypatch.setattr("fastv_export.execution.stored_weights.WEIGHT", 1024)  # large enough to be read in parts
    model = graph_of(tmp_path, VALUES, "float16")
    done = quantize_weights(model, lambda _: rounding)
    values, largest = VALUES.numpy(), float(VALUES.abs().max())
    witness = witness_fp8 if isinstance(rounding, Fp8) else witness_nvfp4
    expected = witness(values, largest)
    np.testing.assert_array_equal(done["stored"].rounded(VALUES[:7], torch.float16), expected[:7])
    assert quantize_float_activations(model, {"x": 3.0}, headroom=2.0) == 1
    save_graph(model, tmp_path / "graph.onnx")
    size = 1 if isinstance(rounding, Fp8) else 0.5 + 1 / BLOCK
    assert (tmp_path / "graph.onnx.data").stat().st_size == pytest.approx(size * VALUES.numel(), rel=0.05)

    x = torch.randn(9, INPUTS, generator=torch.Generator().manual_seed(1)).half().numpy()
    for limit in (1 << 30, 8192):
        found: dict[str, np.ndarray] = {}
        run_chunked(tmp_path / "graph.onnx", [ChunkedRun({"x": x}.__getitem__, found.__setitem__)], limit=limit)
        np.testing.assert_allclose(found["y"], x.astype(np.float32) @ expected.T, rtol=2e-3, atol=2e-3)


def test_the_form_is_what_tensorrt_takes(tmp_path: Path) -> None:
    """Stored bits and scales, by ONNX's own reading of them; scales are powers of two that fp16 has."""
    for rounding, kinds in (
        (Fp8(), ["DequantizeLinear", "QuantizeLinear", "DequantizeLinear", "MatMul"]),
        (Nvfp4(), [*["DequantizeLinear"] * 2, "TRT_FP4DynamicQuantize", *["DequantizeLinear"] * 2, "MatMul"]),
    ):
        model = graph_of(tmp_path, VALUES, "float16")
        (done,) = quantize_weights(model, lambda _, rounding=rounding: rounding).values()
        quantize_float_activations(model, {"x": 3.0}, headroom=2.0)
        save_graph(model, tmp_path / "graph.onnx")
        saved = onnx.load(tmp_path / "graph.onnx")
        assert [node.op_type for node in saved.graph.node] == kinds
        stored = {each.name: onnx.numpy_helper.to_array(each) for each in saved.graph.initializer}
        for name in ("weight.scale", "x.scale"):
            assert stored[name].shape == () and stored[name].dtype == np.float16
            assert np.frexp(float(stored[name]))[0] == 0.5
        if isinstance(rounding, Fp8):
            weight = stored["weight.fp8"].astype(np.float32)
            assert float(stored["x.scale"]) == power_above(6 / 448)
        else:
            weight = stored["weight.fp4"].astype(np.float32)
            weight *= np.repeat(stored["weight.scales"].astype(np.float32), BLOCK, axis=0)
            assert float(stored["x.scale"]) == power_above(6 / (6 * 448))
        weight *= float(stored["weight.scale"])
        np.testing.assert_array_equal(weight.T, done.rounded(VALUES, torch.float16))


def test_what_does_not_fit_stays_as_it_is(tmp_path: Path) -> None:
    for outputs, inputs in ((OUTPUTS, 40), (31, INPUTS)):
        model = graph_of(tmp_path, torch.randn(outputs, inputs))
        assert quantize_weights(model, lambda _: Nvfp4()) == {}
        assert list(model.graph.initializers) == ["weight"]


def test_an_export_is_verified_from_image_to_tokens(tiny_llava: Path, tmp_path: Path) -> None:
    """In nvfp4, whose prefix, attention and head are fp8."""
    output = tmp_path / "out.fastv"
    main([str(tiny_llava), "-o", str(output), "--layer", "2", "--target", "trt", "--precision", "nvfp4"])
    manifest = read_manifest(output)
    assert manifest.plan.weights is not None and manifest.plan.weights.name == "nvfp4"
    assert manifest.verified is not None and max(manifest.verified.values()) < 0.01
    # Inputs of the prefix' one layer and the attention of another; of the suffix' MLP and three layers.
    for graph, inputs in (("vision", (0, 0)), ("prefix", (4 + 2, 0)), ("suffix", (3 * 2, 2 + 3 * 2))):
        nodes = onnx.load(output / "onnx" / f"{graph}.onnx", load_external_data=False).graph.node
        dynamic = sum(node.op_type == "TRT_FP4DynamicQuantize" for node in nodes)
        static = sum(node.op_type == "QuantizeLinear" for node in nodes)
        assert (static, dynamic) == inputs


@pytest.mark.parametrize("target", ["ort", "trt-legacy"])
@pytest.mark.parametrize("precision", ["fp8", "nvfp4"])
def test_other_targets_refuse_them(
    precision: str, target: str, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as failure:
        main([str(tiny_llava), "-o", str(tmp_path / "out"), "--target", target, "--precision", precision])
    assert failure.value.code == 2
    said = f"--precision {precision}: target {target} has no such kernels: use --target trt or trt-rtx, or int8"
    assert said in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("flag", [("--block", "64"), ("--int8-parts", "head")])
def test_flags_of_integers_are_refused(
    flag: tuple[str, str], tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tiny_llava), "-o", str(tmp_path / "out"), "--target", "trt", "--precision", "nvfp4", *flag])
    assert f"{flag[0]}: --precision nvfp4 has blocks and parts of its own" in capsys.readouterr().err


def test_what_tensorrt_rounds_activations_with_runs_as_an_onnx_function() -> None:
    """A block of zeros, blocks too small for any scale, and some beyond the tensor's range."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 5, 64, generator=generator) * torch.logspace(-3, 3, 5)[None, :, None]
    rows[0, 0, :16] = 0
    scale = 2.0**-4
    nodes = [
        helper.make_node(OPERATOR, ["x", "scale"], ["v", "s"], domain="trt", axis=-1, block_size=16, scale_type=17),
        helper.make_node("DequantizeLinear", ["s", "scale"], ["by_block"]),
        helper.make_node("DequantizeLinear", ["v", "by_block"], ["y"], axis=-1, block_size=16),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, 64]) for name in "xy"]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.array(scale, np.float32), "scale")]
    )
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("trt", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11, functions=[fp4_dynamic_quantize()])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": rows.numpy()})
    expected = witness_nvfp4(rows[0].numpy(), 6 * 448 * scale)
    np.testing.assert_array_equal(y[0], expected)
    assert np.abs(y).max() == 6 * 448 * scale
