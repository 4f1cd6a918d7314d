"""Chains of Reshape around heads: what may be dropped, and what may not."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from fastv_export.passes import fold_row_reshapes


def graph_of(*shapes: list[int], width: int = 24) -> ir.Model:
    """Rows [1, S, 24], a Reshape to each of the shapes in turn, and Abs, so that none of them is an output."""
    nodes = [
        onnx.helper.make_node("Reshape", [f"x{index}", f"shape{index}"], [f"x{index + 1}"])
        for index in range(len(shapes))
    ]
    nodes.append(onnx.helper.make_node("Abs", [f"x{len(shapes)}"], ["y"]))
    element = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "chain",
        [onnx.helper.make_tensor_value_info("x0", element, [1, "S", width])],
        [onnx.helper.make_tensor_value_info("y", element, None)],
        [
            onnx.helper.make_tensor(f"shape{index}", onnx.TensorProto.INT64, [len(shape)], shape)
            for index, shape in enumerate(shapes)
        ],
    )
    return ir.serde.deserialize_model(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)]))


@pytest.mark.parametrize("chain", [[[0, 0, 4, 6], [0, 0, 24]], [[0, 0, 4, 6], [0, 0, 2, 12], [0, 0, 24]]])
def test_rows_that_are_split_and_joined_are_as_they_were(chain: list[list[int]]) -> None:
    model = graph_of(*chain)
    assert fold_row_reshapes(model) == 1
    assert [node.op_type for node in model.graph] == ["Abs"]


@pytest.mark.parametrize("chain", [[[0, 0, 24]], [[0, 0, 4, 6]], [[1, -1, 4, 6], [0, -1, 12]]])
def test_other_reshapes_stay(chain: list[list[int]]) -> None:
    model = graph_of(*chain)
    assert fold_row_reshapes(model) == 0
    assert len(model.graph) == len(chain) + 1


def test_no_layer_splits_heads_for_nothing(tiny_bundle: Path) -> None:
    nodes = onnx.load(tiny_bundle / "onnx" / "suffix.onnx", load_external_data=False).graph.node
    kinds = {node.op_type for node in nodes}
    assert "GroupQueryAttention" in kinds and not {"Reshape", "Transpose"} & kinds
