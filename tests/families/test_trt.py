"""Bundles for TensorRT 10.15 and later, in half precision, answer on ONNX Runtime as transformers does in fp32.

Their graphs are the canonical ones, of operators that ONNX Runtime knows as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model, pruned
from fastv_runtime import Pipeline
from tests.conftest import MakeBundle, noise_image
from tests.families.rows import ROWS

LAYER = 2
TOKENS = 8
QUESTION = "Where is the red circle?"


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])  # a plain one, and M-RoPE with a tower of windows
def test_half_precision_answers_as_transformers(model_type: str, tmp_path: Path, make_bundle: MakeBundle) -> None:
    row, family = next(row for row in ROWS if row.model_type == model_type), FAMILIES[model_type]
    source = tmp_path / "checkpoint"
    row.write(source)
    bundle = make_bundle(source, layer=LAYER, target="trt", **row.options)
    pipeline = Pipeline.load(bundle, threads=1, backend="ort")
    manifest = pipeline.bundle.manifest
    assert manifest.plan.precision == "float16"
    assert {(graph.dialect, graph.opset, graph.tensorrt) for graph in manifest.graphs.values()} == {
        ("trt", 24, "10.15")
    }
    stock = load_model(source, family)
    stock.generation_config.eos_token_id = None
    image = noise_image(3, row.cases[0][0])
    inputs = row.inputs(source, [image], QUESTION)
    visual = inputs["input_ids"][0] == manifest.tokens.image
    kept = visual.numel() - int(visual.sum()) + round(0.5 * int(visual.sum()))
    with torch.no_grad(), pruned(family.decoder(stock), LAYER, visual, kept) as pruning:
        expected = stock.generate(
            **inputs, max_new_tokens=TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    generation = pipeline.stream([image], QUESTION, max_new_tokens=TOKENS, ignore_stop=True)
    order = torch.cumsum(visual, 0) - 1
    assert generation.answer.kept_visual_tokens == order[pruning.keep[visual[pruning.keep]]].tolist()
    logits = expected.logits[0][0].numpy()
    np.testing.assert_allclose(pipeline.logits, logits, rtol=0, atol=0.02 * np.abs(logits).max())
    for _ in generation:
        pass
    assert len(generation.answer.token_ids) == TOKENS


def test_sorts_that_tensorrt_cannot_do_are_scatters(tmp_path: Path, make_bundle: MakeBundle) -> None:
    """Qwen2.5-VL's tower inverts the order of its windows, of as many tokens as an image has."""
    row = next(row for row in ROWS if row.model_type == "qwen2_5_vl")
    row.write(tmp_path / "checkpoint")
    bundle = make_bundle(tmp_path / "checkpoint", layer=LAYER, target="trt", **row.options)
    graph = onnx.load(bundle / "onnx" / "vision.onnx", load_external_data=False).graph
    operators = [node.op_type for node in graph.node]
    assert "TopK" not in operators
    assert operators.count("ScatterElements") == 1
