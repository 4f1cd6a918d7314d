"""The passes of `trt-legacy` on graphs of one node: what they refuse, and the values that no family's graph shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from fastv_export.passes import (
    declare_opset,
    drop_scatter_reduction,
    lower_argsort,
    lower_to_plain_attention,
    lower_to_where,
)
from tests.export.tensorrt_operators import violations

FLOAT, HALF, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64, ir.DataType.BOOL


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_plain_attention_is_that_of_torch(kv_heads: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(kv_heads)
    query = torch.randn(2, 6, 5, 8, generator=generator)
    key, value = (torch.randn(2, kv_heads, 7, 8, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, 5, 7, generator=generator) < 0.6
    mask[..., 0] = True  # no row is blind
    inputs = {"q": query, "k": key, "v": value} | ({"m": mask} if masked else {})
    model = _model("Attention", [_value(name, each) for name, each in inputs.items()], {"scale": 0.3})
    assert lower_to_plain_attention(model) == 1
    declare_opset(model, 20)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask if masked else None, scale=0.3, enable_gqa=True
    )
    np.testing.assert_allclose(_run(model, inputs), expected.numpy(), atol=1e-6)


def test_logits_stay_within_half_precision_and_softmax_is_in_single() -> None:
    """Products of 300 x 300 x 8 pass 65504, fp16's largest number, unless queries are scaled first."""
    query = torch.full((1, 1, 2, 8), 300.0, dtype=torch.float16)
    key = torch.full((1, 1, 3, 8), 300.0, dtype=torch.float16)
    value = torch.arange(24, dtype=torch.float16).reshape(1, 1, 3, 8)
    inputs = {"q": query, "k": key, "v": value}
    model = _model("Attention", [_value(name, each) for name, each in inputs.items()], {"scale": 0.01})
    lower_to_plain_attention(model)
    (softmax,) = (node for node in model.graph if node.op_type == "Softmax")
    cast = softmax.inputs[0].producer()
    assert (cast.op_type, cast.attributes["to"].as_int()) == ("Cast", FLOAT)
    np.testing.assert_allclose(_run(model, inputs)[0, 0, 0], value[0, 0].float().mean(0).numpy(), atol=1e-2)


@pytest.mark.parametrize("attributes", [{"is_causal": 1}, {"softcap": 30.0}])
def test_attention_that_does_more_is_refused(attributes: dict[str, Any]) -> None:
    inputs = [_value(name, torch.zeros(1, 2, 3, 8)) for name in "qkv"]
    with pytest.raises(ValueError, match=next(iter(attributes))):
        lower_to_plain_attention(_model("Attention", inputs, attributes))


@pytest.mark.parametrize(("rows", "write_index"), [(4, 0), (4, 6), (1, 9), (10, 0)])
def test_rows_land_where_they_are_written_and_nowhere_else(rows: int, write_index: int) -> None:
    past, new = torch.randn(1, 2, 10, 4), torch.randn(1, 2, rows, 4)
    inputs = {"past": past, "new": new, "write_index": torch.tensor([write_index])}
    model = _model("TensorScatter", [_value(name, each) for name, each in inputs.items()], {"axis": 2})
    assert lower_to_where(model) == 1
    declare_opset(model, 20)
    expected = past.clone()
    expected[:, :, write_index : write_index + rows] = new
    np.testing.assert_array_equal(_run(model, inputs), expected.numpy())


@pytest.mark.parametrize("attributes", [{"axis": 1}, {"axis": -2, "mode": "circular"}])
def test_other_writes_are_refused(attributes: dict[str, Any]) -> None:
    values = (torch.zeros(1, 2, 10, 4), torch.zeros(1, 2, 3, 4), torch.zeros(1, dtype=torch.int64))
    inputs = [_value(name, each) for name, each in zip("pnw", values, strict=True)]
    with pytest.raises(ValueError, match="only linear writes along axis 2"):
        lower_to_where(_model("TensorScatter", inputs, attributes))


def test_an_argsort_becomes_a_scatter() -> None:
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    model = _argsort(order)
    assert lower_argsort(model) == 1
    np.testing.assert_array_equal(_run(model, {"window_index": order}), order.argsort().numpy())


def test_a_sort_from_the_largest_is_no_inverse() -> None:
    with pytest.raises(ValueError, match="only an argsort of window_index, smallest first"):
        lower_argsort(_argsort(torch.arange(4), largest=1))


def test_a_scatter_that_adds_is_refused() -> None:
    values = (torch.zeros(4), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2))
    for reduction in ("none", "add"):
        inputs = [_value(name, each) for name, each in zip("dix", values, strict=True)]
        model = _model("ScatterND", inputs, {"reduction": reduction})
        if reduction == "none":
            assert drop_scatter_reduction(model) == 1
            assert not next(iter(model.graph)).attributes
        else:
            with pytest.raises(ValueError, match="ScatterND that reduces"):
                drop_scatter_reduction(model)


def test_operators_that_meant_something_else_are_not_declared_older() -> None:
    inputs = [_value("x", torch.zeros(1, 4, 6)), _value("s", torch.zeros(4)), _value("b", torch.zeros(4))]
    model = _model("GroupNormalization", inputs, {"num_groups": 2})
    declare_opset(model, 21)
    with pytest.raises(ValueError, match="GroupNormalization of opset 20 is another than that of opset 21"):
        declare_opset(model, 20)


def test_types_that_an_older_operator_lacks_are_found() -> None:
    model = _model("Cos", [_value("x", torch.zeros(2, dtype=torch.bfloat16))], {})
    with pytest.raises(ValueError, match="Cos of opset 20 does not take BFLOAT16"):
        declare_opset(model, 20)


def test_the_file_format_is_that_of_the_opset() -> None:
    model = _model("Cos", [_value("x", torch.zeros(2))], {})
    declare_opset(model, 20)
    assert model.ir_version == 9  # of ONNX 1.15, which brought opset 20


def test_the_list_of_operators_tells_what_is_not_in_it() -> None:
    inputs = [_value(name, torch.zeros(1, 2, 3, 8)) for name in "qkv"]
    found = set(violations(ir.to_proto(_model("Attention", inputs, {}))))
    assert found == {"opset  24", "operator  Attention"}
    model = _model("Clip", [_value("x", torch.zeros(2, dtype=torch.int64))], {})
    declare_opset(model, 20)
    assert set(violations(ir.to_proto(model))) == {"Clip of int64"}


def _value(name: str, tensor: torch.Tensor) -> ir.Value:
    types = {torch.float32: FLOAT, torch.float16: HALF, torch.int64: INT64, torch.bool: BOOL}
    dtype = types.get(tensor.dtype, ir.DataType.BFLOAT16)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(tensor.shape))


def _model(op_type: str, inputs: list[ir.Value], attributes: dict[str, Any]) -> ir.Model:
    node = ir.node(op_type, inputs, attributes)
    return _whole(inputs, [node], node.outputs[0], inputs[0].dtype)


def _argsort(order: torch.Tensor, largest: int = 0) -> ir.Model:
    index = _value("window_index", order)
    shape = ir.node("Shape", [index])
    sort = ir.node("TopK", [index, shape.outputs[0]], {"largest": largest}, num_outputs=2)
    return _whole([index], [shape, sort], sort.outputs[1], INT64)


def _whole(inputs: list[ir.Value], nodes: list[ir.Node], output: ir.Value, dtype: ir.DataType | None) -> ir.Model:
    assert dtype is not None
    output.name, output.type = "out", ir.TensorType(dtype)
    graph = ir.Graph(inputs, [output], nodes=nodes, opset_imports={"": 24}, name="one")
    return ir.Model(graph, ir_version=11)


def _run(model: ir.Model, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return np.asarray(session.run(None, {name: each.numpy() for name, each in inputs.items()})[0])
