"""Weights written block by block: the same bytes as casting and transposing the whole would give."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastv_export.checkpoint import weights
from fastv_export.checkpoint.checkpoint import Checkpoint, StoredTensor
from fastv_export.checkpoint.weights import CheckpointTensor, Scratch
from fastv_runtime import UserError

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def store(folder: Path, values: torch.Tensor) -> StoredTensor:
    (folder / "config.json").write_text("{}")
    save_file({"weight": values}, folder / "model.safetensors")
    return Checkpoint(folder).tensors["weight"]


def written(tensor: CheckpointTensor, folder: Path) -> bytes:
    """What the tensor writes after some bytes that are there already."""
    with (folder / "data").open("wb") as file:
        file.write(b"before")
        tensor.tofile(file)
    data = (folder / "data").read_bytes()
    assert data[:6] == b"before"
    return data[6:]


@pytest.mark.parametrize("block", [64, 1000, 1 << 20], ids="block{}".format)
@pytest.mark.parametrize("transposed", [False, True], ids=["as-stored", "transposed"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_make_up_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, stored: torch.dtype, transposed: bool, block: int
) -> None:
    monkeypatch.setattr(weights, "BLOCK", block)
    values = torch.randn(23, 17, generator=torch.Generator().manual_seed(0)).to(stored)
    tensor = CheckpointTensor("weight", store(tmp_path, values), dtype, Scratch())
    expected = values.float().numpy().astype(DTYPES[dtype])
    if transposed:
        tensor, expected = tensor.transpose("turned"), np.ascontiguousarray(expected.T)
    assert tensor.shape.numpy() == expected.shape
    assert written(tensor, tmp_path) == expected.tobytes()
    assert tensor.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("values", [torch.tensor(3.0), torch.arange(5.0), torch.randn(3, 4, 2, 2)], ids=["0", "1", "4"])
def test_any_number_of_axes(tmp_path: Path, values: torch.Tensor) -> None:
    tensor = CheckpointTensor("weight", store(tmp_path, values), "float16", Scratch())
    assert written(tensor, tmp_path) == values.half().numpy().tobytes()


@pytest.mark.parametrize("value", [1e5, -1e5])
def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    values = torch.zeros(4, 4)
    values[2, 1] = value
    stored = store(tmp_path, values)
    with pytest.raises(
        UserError, match=r"tensor weight has values that float16 cannot hold.*`precision` fp32, or bf16"
    ):
        written(CheckpointTensor("weight", stored, "float16", Scratch()), tmp_path)
    assert written(CheckpointTensor("weight", stored, "float32", Scratch()), tmp_path) == values.numpy().tobytes()
