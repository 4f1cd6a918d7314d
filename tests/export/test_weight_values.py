"""Weights that are no numbers, and weights that a precision cannot hold, are named: graphs are not blamed for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastv_calib.measurement.measure import load_measure
from fastv_export.api import export
from fastv_export.calibration import CalibrationSettings
from fastv_export.checkpoint.checkpoint import Checkpoint, NotFinite, StoredTensor
from fastv_export.checkpoint.weights import CheckpointTensor, Scratch
from fastv_export.exporting import export_bundle
from fastv_export.graphs.save import save_graph
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime import UserError

PARTS = {
    "a matrix": "layers.1.mlp.down_proj.weight",
    "a norm": "layers.4.input_layernorm.weight",
    "the table": "embed_tokens.weight",
    "the head": "lm_head.weight",
    "the tower": "vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.bias",
}


def damaged(
    tiny_llava: Path, folder: Path, part: str, value: float, change: Callable[[torch.Tensor], torch.Tensor]
) -> str:
    """A copy with one value of one tensor changed; that tensor's name."""
    source = Path(shutil.copytree(tiny_llava, folder / "source"))
    tensors = {name: change(tensor) for name, tensor in load_file(source / "model.safetensors").items()}
    name = next(name for name in tensors if name.endswith(PARTS[part].removeprefix("vision_tower.vision_model.")))
    tensors[name].view(-1)[-3] = value
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    return name


def save(tensor: StoredTensor, folder: Path, dtype: str) -> None:
    """A graph of that weight alone."""
    weight = CheckpointTensor("w", tensor, dtype, Scratch())
    value = ir.Value(name="w", shape=weight.shape, type=ir.TensorType(weight.dtype), const_value=weight)
    node = ir.Node("", "Identity", [value])
    node.outputs[0].name = "y"
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 23})
    save_graph(ir.Model(graph, ir_version=10), folder / "graph.onnx")


@pytest.mark.parametrize("part", ["a matrix", "a norm"])
def test_graphs_of_weights_that_are_no_numbers_are_not_written(part: str, tiny_llava: Path, tmp_path: Path) -> None:
    """Those that are streamed beside a graph, and small ones within it."""
    name = damaged(tiny_llava, tmp_path, part, float("nan"), lambda tensor: tensor)
    file = tmp_path / "source" / "model.safetensors"
    with pytest.raises(NotFinite) as caught:
        save(Checkpoint(file.parent).tensors[name], tmp_path, "float32")
    assert str(caught.value).startswith(f"{file}: tensor {name} has values that are NaN or infinite: ")


@pytest.mark.parametrize("part", ["a matrix", "a norm"])
def test_what_half_precision_cannot_hold_says_what_to_do(part: str, tiny_llava: Path, tmp_path: Path) -> None:
    name = damaged(tiny_llava, tmp_path, part, 70_000.0, lambda tensor: tensor.bfloat16())
    tensor = Checkpoint(tmp_path / "source").tensors[name]
    with pytest.raises(
        UserError, match=rf"tensor {name} .* \(beyond 65504\): use `precision` fp32, or bf16 for TensorRT"
    ):
        save(tensor, tmp_path, "float16")
    save(tensor, tmp_path, "bfloat16")


def test_an_export_without_verification_says_so_too(tiny_llava: Path, tmp_path: Path) -> None:
    name = damaged(tiny_llava, tmp_path, "the tower", float("-inf"), lambda tensor: tensor)
    with pytest.raises(NotFinite, match=f"tensor {name} has values that are NaN or infinite"):
        export_bundle(tmp_path / "source", tmp_path / "out.fastv", Options(verify=False), Progress(None))
    assert [each.name for each in tmp_path.iterdir()] == ["source"]


def test_they_stop_what_is_computed_of_a_text_for_few_bits(tiny_llava: Path, tmp_path: Path) -> None:
    name = damaged(tiny_llava, tmp_path, "a matrix", float("nan"), lambda tensor: tensor)
    with pytest.raises(NotFinite, match=f"tensor {name} has values that are NaN or infinite"):
        export(tmp_path / "source", tmp_path / "out.fastv", precision="int4", verify=False)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_are_looked_at_wherever_they_are_read(
    part: str, dtype: torch.dtype, value: float, tiny_llava: Path, tmp_path: Path
) -> None:
    name = damaged(tiny_llava, tmp_path, part, value, lambda tensor: tensor.to(dtype))
    tensor = Checkpoint(tmp_path / "source").tensors[name]
    with pytest.raises(NotFinite):
        tensor.read()
    with pytest.raises(NotFinite):
        tensor.rearranged(tensor.shape, lambda values: values).read()
    if len(tensor.shape) == 2:
        tensor.rows(0, tensor.shape[0] - 1).read()
        with pytest.raises(NotFinite):
            tensor.rows(tensor.shape[0] - 1, tensor.shape[0]).read()


def test_the_largest_numbers_are_numbers(tiny_llava: Path, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        shutil.rmtree(tmp_path / "source", ignore_errors=True)
        most = torch.finfo(dtype).max
        name = damaged(tiny_llava, tmp_path, "a matrix", most, lambda tensor, dtype=dtype: tensor.to(dtype))  # type: ignore[misc]
        assert float(Checkpoint(tmp_path / "source").tensors[name].read().max()) == most


def test_a_calibration_measures_none_of_them(tiny_llava: Path, tmp_path: Path) -> None:
    damaged(tiny_llava, tmp_path, "the head", float("nan"), lambda tensor: tensor)
    settings = CalibrationSettings(layers=(2,), keeps=(0.5,), rankers=("fastv",), answer_tokens=1, image_tokens=None)
    with pytest.raises(NotFinite, match=r"source: tensor lm_head\.weight has values that are NaN or infinite"):
        load_measure(tmp_path / "source", settings)
