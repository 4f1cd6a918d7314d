"""Convolutions of one window become products; others stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.tape import Tape

from fastv_export.passes import lower_patch_convolutions
from fastv_export.tracing.trace import OPSET
from tests.export.test_openvino_graphs import session


def graph(given: list[int | str], kernel: list[int], attributes: dict[str, object], bias: bool) -> ir.Model:
    generator = np.random.default_rng(0)
    outputs = kernel[0]
    values = ir.Value(name="values", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(given))
    weights = [generator.standard_normal(kernel, dtype=np.float32), *([np.arange(outputs, dtype=np.float32)] * bias)]
    tape = Tape()
    constants = [
        tape.initializer(ir.tensor(each, name=f"weight_{index}"), name=f"weight_{index}")
        for index, each in enumerate(weights)
    ]
    made = tape.op("Conv", [values, *constants], attributes)
    made.name, made.type = "made", ir.TensorType(ir.DataType.FLOAT)
    made.shape = ir.Shape([None] * len(given))
    body = ir.Graph([values], [made], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": OPSET})
    return ir.Model(body, ir_version=10)


@pytest.mark.parametrize("bias", [False, True])
def test_one_window_is_a_product(tmp_path: Path, bias: bool) -> None:
    """As torch's convolution computes it."""
    model = graph(["P", 3, 2, 4, 4], [5, 3, 2, 4, 4], {"strides": [2, 4, 4], "group": 1}, bias)
    weights = [torch.from_numpy(each.const_value.numpy().copy()) for each in model.graph.initializers.values()]
    assert lower_patch_convolutions(model) == 1
    assert "Conv" not in {node.op_type for node in model.graph}
    values = np.random.default_rng(1).standard_normal((7, 3, 2, 4, 4), dtype=np.float32)
    (found,) = session(model, tmp_path / "it.onnx").run(["made"], {"values": values})
    expected = torch.nn.functional.conv3d(torch.from_numpy(values), *weights, stride=(2, 4, 4))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("given", "kernel", "attributes"),
    [
        ([1, 3, 8, 8], [5, 3, 4, 4], {"strides": [4, 4]}),  # slides
        (["P", 3, "H", 4], [5, 3, 4, 4], {"strides": [4, 4]}),  # may slide
        (["P", 3, 4, 4], [5, 3, 4, 4], {"pads": [1, 1, 1, 1]}),
        (["P", 3, 4, 4], [5, 3, 4, 4], {"auto_pad": "SAME_UPPER"}),
        (["P", 4, 4, 4], [6, 2, 4, 4], {"group": 2}),
        (["P", 3, 1, 1], [6, 3, 1, 1], {"dilations": [2, 2]}),
    ],
)
def test_others_stay(given: list[int | str], kernel: list[int], attributes: dict[str, object]) -> None:
    model = graph(given, kernel, attributes, bias=False)
    assert lower_patch_convolutions(model) == 0
    assert [node.op_type for node in model.graph] == ["Conv"]
