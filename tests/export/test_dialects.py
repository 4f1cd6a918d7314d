"""The lowered graphs compute what the canonical ones do: both forms on ONNX Runtime, every output, every case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import FAMILIES, Family
from fastv_export.graphs.build import build_graph
from fastv_export.graphs.save import save_graph
from fastv_export.passes import declare_opset, lower_to_group_query_attention
from fastv_export.plan import Options, decoder_dimensions, make_plan
from fastv_export.targets import ORT
from fastv_export.tracing import attention
from fastv_runtime.config.io_spec import IOSpec, io_specs
from fastv_runtime.config.layouts import FixedVision
from fastv_runtime.config.plan import Plan

LAYER = 2


@pytest.fixture(scope="module")
def graphs(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, IOSpec]]:
    """(canonical file, lowered file, io_spec) of every graph with layers: split and unsplit."""
    attention.register()
    checkpoint, family = Checkpoint(tiny_llava), FAMILIES["llava"]
    dimensions, vision = decoder_dimensions(checkpoint.config, family), family.vision(checkpoint.config, None)
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION)
    folder = tmp_path_factory.mktemp("dialects")
    made = {}
    for prune in (True, False):
        plan = make_plan(
            Options(layer=LAYER, keep=0.25, max_text=64, max_new_tokens=16, prune=prune), dimensions, vision, None
        )
        for name, io_spec in io_specs(dimensions, vision, None, plan, "float32").items():
            if name != "select":
                files = _write(name, io_spec, skeleton, family, vision, plan, folder)
                made[name] = (*files, io_spec)
    return made


def _write(
    name: str, io_spec: IOSpec, skeleton: Skeleton, family: Family, vision: FixedVision, plan: Plan, folder: Path
) -> tuple[Path, Path]:
    files = folder / f"{name}-onnx.onnx", folder / f"{name}-ort.onnx"
    model = build_graph(name, io_spec, skeleton, family, vision, plan)
    save_graph(model, files[0])
    ORT.lower(model)
    save_graph(model, files[1])
    return files


@pytest.mark.parametrize("name", ["prefix", "suffix", "decoder"])
@pytest.mark.parametrize(("rows", "write_index"), [(30, 0), (1, 30), (1, 0), (5, 11)])
def test_ort_dialect_equals_canonical_form(
    graphs: dict[str, tuple[Path, Path, IOSpec]], name: str, rows: int, write_index: int
) -> None:
    canonical, lowered, (inputs, _) = graphs[name]
    generator = np.random.default_rng(rows)
    feeds: dict[str, np.ndarray] = {
        "hidden": generator.standard_normal((1, rows, 64), dtype=np.float32),
        # Gaps, as after pruning: positions are not indices.
        "position_ids": np.sort(generator.choice(200, rows, replace=False))[None].astype(np.int64),
        "write_index": np.asarray([write_index]),
    }
    for tensor in inputs[3:]:
        shape = [int(axis) for axis in tensor.shape]
        feeds[tensor.name] = np.zeros(shape, np.float32)
        feeds[tensor.name][:, :, :write_index] = generator.standard_normal(
            (shape[0], shape[1], write_index, shape[3]), dtype=np.float32
        )
    outputs = []
    for file in (canonical, lowered):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file, options)
        names = [each.name for each in session.get_outputs()]
        copies = {key: value.copy() for key, value in feeds.items()}
        outputs.append(dict(zip(names, session.run(None, copies), strict=True)))
    assert outputs[0].keys() == outputs[1].keys()
    filled = write_index + rows
    for key, expected in outputs[0].items():
        actual = outputs[1][key]
        if key.startswith("present_"):  # rows past the end are never read
            expected, actual = expected[:, :, :filled], actual[:, :, :filled]
        np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4, err_msg=key)


def test_a_tower_is_lowered_to_multi_head_attention(graphs: dict[str, tuple[Path, Path, IOSpec]]) -> None:
    canonical, lowered, _ = graphs["vision"]
    operators = [node.op_type for node in onnx.load(lowered, load_external_data=False).graph.node]
    assert operators.count("MultiHeadAttention") == 2  # features come from the layer before the last of three
    assert "Attention" not in operators
    pixels = np.random.default_rng(0).standard_normal((1, 3, 96, 96), dtype=np.float32)
    first, second = (
        onnxruntime.InferenceSession(file).run(None, {"pixel_values": pixels})[0] for file in (canonical, lowered)
    )
    np.testing.assert_allclose(second, first, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["prefix", "suffix", "decoder"])
def test_the_forms_hold_the_operators_they_promise(graphs: dict[str, tuple[Path, Path, IOSpec]], name: str) -> None:
    canonical, lowered, (inputs, _) = graphs[name]
    layers = (len(inputs) - 3) // 2
    onnx.checker.check_model(canonical, full_check=True)
    first = [node.op_type for node in onnx.load(canonical, load_external_data=False).graph.node]
    second = [node.op_type for node in onnx.load(lowered, load_external_data=False).graph.node]
    assert (first.count("Attention"), first.count("TensorScatter")) == (layers, 2 * layers)
    assert second.count("GroupQueryAttention") == layers
    assert not {"Attention", "TensorScatter", "LessOrEqual"} & set(second)


def test_scores_take_one_row_never_a_matrix(graphs: dict[str, tuple[Path, Path, IOSpec]]) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(graphs["prefix"][0], load_external_data=False))
    softmax = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert len(softmax) == 1
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    dims = shapes[softmax[0].output[0]]
    # [1, key-value heads, queries per key, C]: a fourth axis over the cache's keys, and none over query rows
    keys = next(tensor.shape[2] for tensor in graphs["prefix"][2][0] if tensor.name.startswith("past_"))
    assert [dim.dim_value for dim in dims] == [1, 2, 2, keys]


def test_an_attention_with_half_a_cache_is_refused() -> None:
    query = ir.Value(name="q", shape=ir.Shape([1, 2, 3, 8]), type=ir.TensorType(ir.DataType.FLOAT))
    key = ir.Node("", "TensorScatter", [query, query, query])
    node = ir.Node("", "Attention", [query, key.outputs[0], query, query])
    node.outputs[0].name = "out"
    model = ir.Model(ir.Graph([query], [node.outputs[0]], nodes=[key, node], opset_imports={"": 24}), ir_version=11)
    with pytest.raises(ValueError, match="TensorScatter"):
        lower_to_group_query_attention(model)


def test_an_older_opset_is_declared_only_where_every_node_fits() -> None:
    def graph(op_type: str, attributes: dict[str, int] | None = None) -> ir.Model:
        value = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
        node = ir.node(op_type, [value], attributes)
        return ir.Model(ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 24}), ir_version=11)

    model = graph("Cast", {"to": 1})
    declare_opset(model, 23)
    assert model.graph.opset_imports[""] == 23
    with pytest.raises(ValueError, match="opset 23 has no TensorScatter"):
        declare_opset(graph("TensorScatter"), 23)
    with pytest.raises(ValueError, match=r"Cast of opset 23 does not take \['round_mode'\]"):
        declare_opset(graph("Cast", {"to": 1, "round_mode": 0}), 23)
