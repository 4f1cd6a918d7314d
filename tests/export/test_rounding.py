"""Weights in four and eight bits: what is written, what a graph computes from it, and what the reference computes."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.weights import CheckpointTensor, Scratch
from fastv_export.execution.exact import with_exact_products
from fastv_export.graphs.save import save_graph
from fastv_export.passes import lower_to_dynamic_int8, lower_to_matmul_nbits, quantize_weights
from fastv_export.quantization import weights as weights_module
from fastv_export.quantization.weights import Quantization
from fastv_runtime.config.plan import Weights
from tests.conftest import MakeBundle

INPUTS, OUTPUTS = 256, 66


def graph_of(folder: Path, values: torch.Tensor, dtype: str = "float32") -> ir.Model:
    """x [S, inputs] @ weight, stored as [outputs, inputs]."""
    (folder / "config.json").write_text("{}")
    save_file({"stored": values}, folder / "model.safetensors")
    tensor = CheckpointTensor("weight", Checkpoint(folder).tensors["stored"], dtype, Scratch(), transposed=True)
    element = tensor.dtype
    x = ir.Value(name="x", type=ir.TensorType(element), shape=ir.Shape(["S", values.shape[1]]))
    y = ir.Value(name="y", type=ir.TensorType(element), shape=ir.Shape(["S", values.shape[0]]))
    weight = ir.Value(name="weight", type=ir.TensorType(element), shape=tensor.shape, const_value=tensor)
    node = ir.Node("", "MatMul", [x, weight], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[weight], name="graph", opset_imports={"": 23})
    return ir.Model(graph, ir_version=11)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_a_graph_computes_with_the_rounded_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, block: int, stored: torch.dtype
) -> None:
    monkeypatch.setattr(weights_module, "BLOCK", 4 * INPUTS * stored.itemsize)  # four rows at a time
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(OUTPUTS, INPUTS, generator=generator).to(stored)
    values[3] = 0
    rounding = Quantization(bits, block)
    model = graph_of(tmp_path, values)
    assert quantize_weights(model, lambda name: rounding if name == "weight" else None) == {"stored": rounding}
    save_graph(model, tmp_path / "graph.onnx")
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)
    size = (tmp_path / "graph.onnx.data").stat().st_size
    assert size == pytest.approx(values.numel() * (bits / 8 + 4 / block), rel=0.01)

    x = torch.randn(7, INPUTS, generator=generator)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")  # else activations are rounded too
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x.numpy()})
    expected = x @ rounding.rounded(values, torch.float32).t()
    np.testing.assert_allclose(y, expected.numpy(), rtol=0, atol=1e-4)
    fused = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    assert [node.op_type for node in fused] == ["MatMulNBits"]
    # Rounding to 15 or 255 steps: half a step, of the largest value of its block; in four bits no worse in the mean.
    exact = values.float().reshape(OUTPUTS, -1, block)
    step = exact.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    error = (rounding.rounded(values, torch.float32) - values.float()).reshape(OUTPUTS, -1, block)
    plain = torch.round(exact / step.clamp_min(1e-9)) * step - exact
    assert 0 < error.square().mean() <= (1.001 if bits == 8 else 0.95) * plain.square().mean()
    assert bits == 4 or (error.abs() <= step / 2 + 1e-6).all()


@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_zero_points_are_where_the_operator_looks_for_them(tmp_path: Path, dtype: str, block: int) -> None:
    """Blocks beside zero, on both sides; two blocks of 128 an output, so that an output's zero points share a byte.

    The reader is ONNX Runtime's: DequantizeLinear's layout, and MatMulNBits's own.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(OUTPUTS, INPUTS, generator=generator) + torch.linspace(-2, 1.5, OUTPUTS)[:, None]
    values[:, :128] *= -1
    rounding = Quantization(4, block, zero_points=True)
    weight = rounding.rounded(values, getattr(torch, dtype))
    # Where values lie on one side of zero, symmetric steps are twice as large as they need be.
    symmetric = Quantization(4, block).rounded(values, torch.float32)
    assert (weight - values).square().mean() < 0.5 * (symmetric - values).square().mean()
    x = torch.randn(7, INPUTS, generator=generator).to(getattr(torch, dtype))
    for lower in (lower_to_matmul_nbits, None):
        (tmp_path / str(lower)).mkdir()
        model = graph_of(tmp_path / str(lower), values, dtype)
        quantize_weights(model, lambda _: rounding)
        if lower is not None:
            lower(model)
        save_graph(model, tmp_path / "graph.onnx")
        graph = onnx.load(tmp_path / "graph.onnx")
        with_exact_products(graph)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")  # else activations are rounded
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
        (y,) = session.run(None, {"x": x.numpy()})
        expected = x.float() @ weight.t()
        assert np.linalg.norm(y - expected.numpy()) <= (1e-5 if dtype == "float32" else 3e-3) * expected.norm()


def test_four_bits_err_where_inputs_are_small() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(OUTPUTS, INPUTS, generator=generator)
    size = torch.rand(INPUTS, generator=generator) ** 6 * 30
    rows = torch.randn(500, INPUTS, generator=generator) * size
    for zero_points in (False, True):
        plain = Quantization(4, 32, zero_points=zero_points)
        known = replace(plain, importance=rows.square().mean(0))
        errors = [
            float((rows @ (each.rounded(values, torch.float32) - values).t()).square().mean())
            for each in (plain, known)
        ]
        assert errors[1] < 0.6 * errors[0]
        assert not known.rounded(torch.zeros(2, INPUTS), torch.float16).any()
        unused = replace(plain, importance=torch.zeros(INPUTS))
        assert torch.isfinite(unused.rounded(values, torch.float32)).all()


def test_scales_are_rounded_before_values_are(tmp_path: Path) -> None:
    values = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(0))
    model = graph_of(tmp_path, values, "float16")
    quantize_weights(model, lambda _: Quantization(4, 64))
    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert set(stored) == {"weight.int4", "weight.scales"}
    scales, integers = (stored[name].numpy() for name in ("weight.scales", "weight.int4"))
    assert scales.dtype == np.float16
    assert integers.dtype == ml_dtypes.int4
    dequantized = integers.astype(np.float32) * np.repeat(scales.astype(np.float32), 64, axis=0)
    np.testing.assert_array_equal(dequantized.T, Quantization(4, 64).rounded(values, torch.float16).numpy())


def test_what_does_not_fit_stays_as_it_is(tmp_path: Path) -> None:
    for outputs, inputs in ((OUTPUTS, 100), (31, INPUTS)):
        model = graph_of(tmp_path, torch.randn(outputs, inputs))
        assert quantize_weights(model, lambda _: Quantization(4, 64)) == {}
        assert list(model.graph.initializers) == ["weight"]


def test_dynamic_products_round_every_row_in_a_range_of_its_own(tmp_path: Path) -> None:
    """One row a thousand times larger than the others, as some tokens of pretrained models are, and one of zeros."""
    generator = torch.Generator().manual_seed(0)
    values, x = torch.randn(OUTPUTS, INPUTS, generator=generator), torch.randn(9, INPUTS, generator=generator)
    x[2] *= 1000
    x[5] = 0
    model = graph_of(tmp_path, values)
    quantize_weights(model, lambda _: Quantization(8, None))
    assert lower_to_dynamic_int8(model) == 1
    save_graph(model, tmp_path / "graph.onnx")
    assert (tmp_path / "graph.onnx.data").stat().st_size == pytest.approx(values.numel() + 4 * OUTPUTS, rel=0.05)

    def run(graph: onnx.ModelProto) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")  # else it rounds by itself
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": x.numpy()})[0])

    saved = onnx.load(tmp_path / "graph.onnx")
    y, weights = run(saved), Quantization(8, None).rounded(values, torch.float32)
    step = x.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127
    expected = (torch.round(x / step) * step) @ weights.t()
    assert not y[5].any()
    for found, row, exact in zip(y, expected.numpy(), (x @ values.t()).numpy(), strict=True):
        np.testing.assert_allclose(found, row, rtol=0, atol=2e-3 * np.abs(row).max())
        error = np.linalg.norm(found - exact)
        assert 1e-4 * np.linalg.norm(exact) <= error <= 0.02 * np.linalg.norm(exact)
    # What verification runs has the weights rounded, and nothing else.
    with_exact_products(saved)
    np.testing.assert_allclose(run(saved), (x @ weights.t()).numpy(), rtol=1e-4, atol=1e-3)


def test_products_of_one_input_share_its_rounding(tiny_llava: Path, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(tiny_llava, weights=Weights(bits=8, block=None))
    nodes = onnx.load(bundle / "onnx" / "suffix.onnx", load_external_data=False).graph.node
    counts = {kind: sum(node.op_type == kind for node in nodes) for kind in ("MatMul", "MatMulIntegerToFloat")}
    # Three layers: queries, keys and values; output; gate and up; down. The MLP of the layer before.
    assert counts == {"MatMul": 0, "MatMulIntegerToFloat": 3 * 7 + 3}
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 3 * 4 + 2
    # Every product is multiplied by its rows' sizes, but `up`: behind `down` rows are narrower.
    products = {node.output[0]: node.input[1] for node in nodes if node.op_type == "MatMulIntegerToFloat"}
    sizes = {node.output[0] for node in nodes if node.op_type == "ReduceMax"}
    sizes |= {node.output[0] for node in nodes if node.op_type == "Mul" and set(node.input) <= sizes}
    multiplied = {each for node in nodes if node.op_type == "Mul" and sizes & set(node.input) for each in node.input}
    assert sum("down_proj" in products[name] for name in products.keys() & multiplied) == 4
    assert all("up_proj" in products[name] for name in products.keys() - multiplied)
    assert len(products.keys() - multiplied) == 4
    # And the head, which is given one row.
    (head,) = [node for node in nodes if node.op_type == "MatMulNBits"]
    blocks = {each.name: each.i for each in head.attribute}
    assert (blocks["bits"], blocks["block_size"]) == (8, gcd(blocks["K"], 128))
