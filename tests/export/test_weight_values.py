"""Weights that are no numbers, and weights that a precision cannot hold, are named: graphs are not blamed for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastv_export.api import export
from fastv_export.checkpoint.checkpoint import Checkpoint, NotFinite
from fastv_export.exporting import export_bundle
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


@pytest.mark.parametrize(
    ("part", "value", "dtype"),
    [("a matrix", float("nan"), torch.float32), ("a norm", float("-inf"), torch.bfloat16)],
)
def test_weights_that_are_no_numbers_are_named(
    part: str, value: float, dtype: torch.dtype, tiny_llava: Path, tmp_path: Path
) -> None:
    """Those that are streamed beside a graph, and those that are within it."""
    name = damaged(tiny_llava, tmp_path, part, value, lambda tensor: tensor.to(dtype))
    source = tmp_path / "source"
    with pytest.raises(NotFinite) as caught:
        export_bundle(source, tmp_path / "out.fastv", Options(verify=False), Progress(None))
    file = source / "model.safetensors"
    assert str(caught.value).startswith(f"{file}: tensor {name} has values that are NaN or infinite: ")
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


def test_a_norm_that_half_precision_cannot_hold_says_what_to_do(tiny_llava: Path, tmp_path: Path) -> None:
    name = damaged(tiny_llava, tmp_path, "a norm", 70_000.0, lambda tensor: tensor.bfloat16())
    with pytest.raises(
        UserError, match=rf"tensor {name} .* \(beyond 65504\): use `precision` fp32, or bf16 for TensorRT"
    ):
        export(tmp_path / "source", tmp_path / "out.fastv", precision="fp16", verify=False)
