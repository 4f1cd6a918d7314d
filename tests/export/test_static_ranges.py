"""Static int8 where one range serves all rows, and eight bits for the weights alone where a few rows are too large."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.quantization.activations import activations_of
from fastv_export.quantization.observer import Statistics, _add, means, merged
from fastv_export.quantization.static_ranges import LARGEST, step_error, supports_one_range
from fastv_runtime.config.plan import Weights
from tests.activations import tiny_activations
from tests.tiny import write_tiny_llava

INPUTS = 64


def observed(*samples: torch.Tensor) -> Statistics:
    whole: Statistics = {}
    for rows in samples:
        one: Statistics = {}
        _add(one, "product", rows)
        whole = {name: merged(name, whole[name], one[name]) if whole else one[name] for name in one}
    return whole


def test_the_error_is_that_of_an_ordinary_row_beside_an_outlier() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(INPUTS, generator=generator) + 0.5
    ordinary = torch.randn(200, INPUTS, generator=generator) * torch.logspace(-1, 1, INPUTS)
    outlier = torch.zeros(1, INPUTS)
    outlier[0, 3] = 100 * float(ordinary.abs().max())
    nothing = torch.zeros(2, INPUTS)  # has no size, and does not count
    found = means(observed(torch.cat([outlier, ordinary[:70]]), torch.cat([ordinary[70:], nothing])))
    activation = activations_of({name: torch.from_numpy(np.asarray(each)) for name, each in found.items()})["product"]
    for divisor in (None, scale):
        rows, largest = (ordinary, outlier) if divisor is None else (ordinary / divisor, outlier / divisor)
        step = float(largest.max()) / LARGEST
        error = ((rows / step).round() * step - rows).square().mean(1).sqrt() / rows.square().mean(1).sqrt()
        # Such steps are wider than rows are, which fall to zero: an error of one, where steps were even it is larger.
        assert float(error.median()) > 0.9
        assert step_error(activation, divisor) > 1
        assert not supports_one_range("layers.0.mlp.down_proj.weight", activation, divisor)
    alone = means(observed(ordinary))
    activation = activations_of({name: torch.from_numpy(np.asarray(each)) for name, each in alone.items()})["product"]
    step = float(ordinary.abs().max()) / LARGEST
    error = ((ordinary / step).round() * step - ordinary).square().mean(1).sqrt() / ordinary.square().mean(1).sqrt()
    assert step_error(activation, None) == pytest.approx(float(error.median()), rel=0.1)
    assert supports_one_range("layers.0.mlp.down_proj.weight", activation, None)
    assert not supports_one_range("head.weight", activation, None)


def test_products_with_outliers_keep_their_activations(tmp_path: Path) -> None:
    activations = tiny_activations(3)
    wide = activations["layers.1.mlp.down_proj"]
    wide.max_abs[5] *= 3000
    options = Options(prune=False, target="trt", weights=Weights(bits=8, block=None, static=True), verify=False)
    source = write_tiny_llava(tmp_path / "source", layers=3)
    notes: list[str] = []
    progress = Progress(None)
    progress.note = notes.append  # type: ignore[method-assign]
    export_bundle(source, tmp_path / "out.fastv", options, progress, activations)
    (note,) = (each for each in notes if "are not quantized" in each)
    assert note.startswith("note: 1 of 12 inputs of linear layers are not quantized")
    model = onnx.load(tmp_path / "out.fastv" / "onnx" / "decoder.onnx", load_external_data=False)
    makers = {node.output[0]: node for node in model.graph.node}
    static = {
        re.sub(r"\.weight.*", "", node.input[1]): makers[node.input[0]].op_type == "DequantizeLinear"
        for node in model.graph.node
        if node.op_type == "MatMul" and makers.get(node.input[1], node).op_type == "DequantizeLinear"
    }
    assert {name for name, rounded in static.items() if not rounded} == {"layers.1.mlp.down_proj", "head"}
    assert sum(static.values()) == 3 * 7 - 1
