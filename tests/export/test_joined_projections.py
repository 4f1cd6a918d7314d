"""One product for queries, keys and values in graphs for OpenVINO, beside the three that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from transformers import LlamaConfig, Qwen2Config

from fastv_export.passes import join_projections, lower_to_growing_cache, lower_to_stored_weights, quantize_weights
from fastv_export.quantization.weights import Quantization
from tests.cases.llava import write_llava
from tests.export.test_openvino_graphs import middle, session

EIGHT, FOUR = Quantization(8, None), Quantization(4, 16, zero_points=True)


def rounding(name: str, weights: str) -> Quantization | None:
    if weights == "fp32":
        return None
    return EIGHT if weights == "int8" or (weights == "values of int8" and "v_proj" in name) else FOUR


def lowered(source: Path, weights: str) -> ir.Model:
    """The graph between two cuts, up to the pass: attention of two layers, of whose MLPs it has two."""
    model = middle(source)
    lower_to_growing_cache(model)
    quantize_weights(model, lambda name: rounding(name, weights))
    lower_to_stored_weights(model)
    return model


@pytest.mark.parametrize("text", [LlamaConfig, Qwen2Config], ids=["bare", "biases"])
@pytest.mark.parametrize(
    ("weights", "gone"), [("fp32", 4), ("int8", 4), ("int4", 4), ("values of int8", 2)], ids=lambda each: str(each)
)
def test_a_joined_product_is_what_its_parts_were(tmp_path: Path, text: type, weights: str, gone: int) -> None:
    source = write_llava(tmp_path / "checkpoint", text, options={"num_hidden_layers": 5})
    model = lowered(source, weights)
    before = session(model, tmp_path / "before.onnx")
    had = [node.op_type for node in model.graph]
    assert join_projections(model) == gone
    has = [node.op_type for node in model.graph]
    assert has.count("MatMul") == had.count("MatMul") - gone
    assert has.count("Add") == had.count("Add") - (gone if text is Qwen2Config else 0)
    after = session(model, tmp_path / "after.onnx")
    generator = np.random.default_rng(0)
    inputs: dict[str, Any] = {}
    for each in before.get_inputs():
        shape = [axis if isinstance(axis, int) else 9 for axis in each.shape]
        integers = each.type == "tensor(int64)"
        inputs[each.name] = np.arange(9)[None] if integers else generator.standard_normal(shape, dtype=np.float32)
    for ours, theirs in zip(after.run(None, inputs), before.run(None, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_what_openvino_has_an_operator_for_stays(tmp_path: Path) -> None:
    """Gate and up of an MLP read the same rows too."""
    model = lowered(write_llava(tmp_path / "checkpoint", options={"num_hidden_layers": 5}), "int8")
    join_projections(model)
    names = [each for each in model.graph.initializers if each.endswith(".int8")]
    assert sum(each.endswith("gate_proj.weight.int8") for each in names) == 2
    assert sum(each.endswith("up_proj.weight.int8") and "+" not in each for each in names) == 2
    assert sum("q_proj" in each and "k_proj" in each and "v_proj" in each for each in names) == 2


def test_files_have_each_weight_once(tmp_path: Path) -> None:
    source = write_llava(tmp_path / "checkpoint", Qwen2Config, options={"num_hidden_layers": 5})
    model = lowered(source, "int4")
    session(model, tmp_path / "before.onnx")
    join_projections(model)
    session(model, tmp_path / "after.onnx")
    sizes = [
        sum(len(each.raw_data) for each in onnx.load(tmp_path / f"{name}.onnx").graph.initializer)
        for name in ("before", "after")
    ]
    widths = 2 * 3 * np.dtype(np.int64).itemsize  # of two layers' three parts
    assert sizes[1] == sizes[0] + widths
