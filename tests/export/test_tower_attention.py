"""Attention of towers for any size: both dialects against torch, on windows other than the traced."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from fastv_export.hf import Attention
from fastv_export.passes import declare_opset, lower_to_multi_head_attention, tidy
from fastv_export.targets import ORT
from fastv_export.tracing.tower_attention import WHOLE, Windows, tower_attention
from fastv_runtime.preprocessing.images.grid import window_slots

HEADS, WIDTH, SCALE = 2, 8, 0.3
SIDE, MERGE = 2, 2
GRIDS = [(3, 5), (4, 2), (1, 1)]
"""Rows and columns in visual tokens, of windows of two: ragged at both edges, whole, and one that is mostly empty."""


class Layers(nn.Module):
    """Windows, the whole, windows again."""

    def forward(self, rows: torch.Tensor, slots: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        for boundaries in (Windows(slots, places), WHOLE, Windows(slots, places)):
            heads = rows.reshape(1, -1, HEADS, WIDTH).transpose(1, 2)
            extra = {"cu_seq_lens_q": boundaries}
            mixed = tower_attention(Attention(self, heads, heads + 1, heads * 2, None, SCALE, None, extra))
            rows = mixed.reshape(rows.shape)
        return rows


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> list[onnxruntime.InferenceSession]:
    """Canonical and lowered."""
    count, windows = torch.export.Dim("count", min=1, max=4096), torch.export.Dim("windows", min=1, max=4096)
    slots, places = (torch.from_numpy(each) for each in window_slots((5, 7), SIDE, MERGE))
    example = (torch.zeros(places.numel(), HEADS * WIDTH), slots, places)
    dynamic = ({0: count}, {0: windows}, {0: count})
    program = torch.export.export(Layers(), example, dynamic_shapes=dynamic, strict=False)
    exported = torch.onnx.export(program, dynamo=True, opset_version=24, optimize=False, verbose=False)
    assert exported is not None
    model = exported.model
    tidy(model)
    folder = tmp_path_factory.mktemp("tower")
    ir.save(model, folder / "canonical.onnx")
    assert lower_to_multi_head_attention(model) == 3
    declare_opset(model, ORT.opset)
    ir.save(model, folder / "lowered.onnx")
    operators = [node.op_type for node in model.graph]
    assert "Attention" not in operators
    biases = {node.inputs[5] for node in model.graph if node.op_type == "MultiHeadAttention" and len(node.inputs) > 3}
    assert len(biases) == 1, "layers of one mask share its bias"
    return [onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("canonical", "lowered")]


@pytest.mark.parametrize("grid", GRIDS)
def test_windows_see_themselves_alone(sessions: list[onnxruntime.InferenceSession], grid: tuple[int, int]) -> None:
    slots, places = window_slots(grid, SIDE, MERGE)
    rows = np.random.default_rng(0).standard_normal((places.size, HEADS * WIDTH), np.float32)
    window = torch.from_numpy(np.flatnonzero(slots.reshape(-1) >= 0) // slots.shape[1])
    expected = torch.from_numpy(rows)
    for mask in (window[:, None] == window, None, window[:, None] == window):
        heads = expected.reshape(1, -1, HEADS, WIDTH).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads + 1, heads * 2, mask, scale=SCALE)
        expected = mixed.transpose(1, 2).reshape(expected.shape)
    for session in sessions:
        names = [each.name for each in session.get_inputs()]
        (actual,) = session.run(None, dict(zip(names, (rows, slots, places), strict=True)))
        np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4, rtol=1e-4)


def test_only_a_boolean_mask_becomes_a_bias() -> None:
    query = ir.Value(name="q", shape=ir.Shape([1, 2, 3, 8]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "Attention", [query, query, query, query])
    node.outputs[0].name = "out"
    model = ir.Model(ir.Graph([query], [node.outputs[0]], nodes=[node], opset_imports={"": 24}), ir_version=11)
    with pytest.raises(ValueError, match="boolean"):
        lower_to_multi_head_attention(model)
