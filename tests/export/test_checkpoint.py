"""Checkpoints as people have them: other dtypes, shards, tied heads, old names. Verified against transformers each."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES, family_of
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.verify.reference import load_model
from fastv_runtime import UserError
from tests.tiny import write_tiny_llava


def _export(source: Path, folder: Path) -> dict[str, float]:
    verified = export_bundle(source, folder / "out.fastv", Options(), Progress(None)).verified
    assert verified is not None
    return verified


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints(tiny_llava: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    source = tmp_path / "half"
    shutil.copytree(tiny_llava, source)
    model = load_model(tiny_llava, FAMILIES["llava"]).to(dtype)
    model.save_pretrained(source)
    assert {tensor.dtype for tensor in Checkpoint(source).tensors.values()} == {
        "BF16" if dtype is torch.bfloat16 else "F16"
    }
    assert max(_export(source, tmp_path).values()) < 1e-4


def test_sharded_checkpoints(tiny_llava: Path, tmp_path: Path) -> None:
    source = tmp_path / "sharded"
    shutil.copytree(tiny_llava, source)
    (source / "model.safetensors").unlink()
    load_model(tiny_llava, FAMILIES["llava"]).save_pretrained(source, max_shard_size="100KB")
    assert len(Checkpoint(source).files) > 3
    _export(source, tmp_path)
    next(iter(Checkpoint(source).files)).unlink()
    with pytest.raises(UserError, match=r"model-00001-of-\d+\.safetensors is missing"):
        export_bundle(source, tmp_path / "other.fastv", Options(), Progress(None))


def test_tied_heads(tmp_path: Path) -> None:
    source = write_tiny_llava(tmp_path / "tied", tie_word_embeddings=True)
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": True}
    (source / "config.json").write_text(json.dumps(config))
    tensors = load_file(source / "model.safetensors")
    heads = [name for name in tensors if name.endswith("lm_head.weight")]
    for name in heads:
        del tensors[name]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    assert max(_export(source, tmp_path).values()) < 1e-4


def test_names_of_today_and_of_transformers_4_are_both_known(tiny_llava: Path, tmp_path: Path) -> None:
    stored = load_file(tiny_llava / "model.safetensors")
    model = load_model(tiny_llava, FAMILIES["llava"])
    variants = {"of-today": model.state_dict(), "as-saved": stored}
    assert set(variants["of-today"]) != set(variants["as-saved"])
    for name, tensors in variants.items():
        folder = tmp_path / name
        folder.mkdir()
        source = Path(shutil.copytree(tiny_llava, folder / "source"))
        save_file({key: value.clone() for key, value in tensors.items()}, source / "model.safetensors")
        _export(source, folder)


def test_tensors_are_read_one_at_a_time_and_right(tiny_llava: Path) -> None:
    expected = load_file(tiny_llava / "model.safetensors")
    tensors = Checkpoint(tiny_llava).tensors
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.read(), expected[name].numpy())


def test_an_unknown_dtype_is_named(tiny_llava: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_llava, tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    name = next(key for key in tensors if key.endswith("q_proj.weight"))
    save_file(tensors | {name: tensors[name].to(torch.int8)}, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="has dtype I8"):
        export_bundle(source, tmp_path / "out.fastv", Options(verify=False), Progress(None))


def test_an_unknown_family_is_refused_by_naming_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'mamba' is not supported; known families: .*llava"):
        family_of("mamba", "config.json")


def test_every_family_is_a_stock_class_with_a_decoder() -> None:
    for model_type, family in FAMILIES.items():
        assert family.model_class().config_class.model_type == model_type


def test_a_tensor_that_the_model_does_not_know_is_a_warning(tiny_llava: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_llava, tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    # The second is computed today, and was stored by older versions of transformers: nobody needs to hear of it.
    extra = {
        "value_head.weight": torch.zeros(3),
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8),
    }
    save_file(tensors | extra, source / "model.safetensors", metadata={"format": "pt"})
    console = Console(record=True, width=200, file=io.StringIO())
    with Progress(console) as progress:
        export_bundle(source, tmp_path / "out.fastv", Options(verify=False), progress)
    said = console.export_text()
    assert f"warning: {source}: 1 tensors are not used: value_head.weight" in said.replace("\n", "")
    assert "inv_freq" not in said
