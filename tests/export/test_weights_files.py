"""Which files of a checkpoint are read, where there are several: those that transformers reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model
from fastv_runtime import UserError
from tests.tiny import write_tiny_llava

LLAVA = FAMILIES["llava"]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another seed's weights, in shards."""
    whole = write_tiny_llava(tmp_path_factory.mktemp("older") / "whole", seed=1)
    shards = whole.with_name("shards")
    load_model(whole, LLAVA).save_pretrained(shards, max_shard_size="300KB")
    assert (shards / INDEX).is_file()
    return shards


def copied(tiny_llava: Path, folder: Path, older: Path, pattern: str) -> Path:
    source = Path(shutil.copytree(tiny_llava, folder / "source"))
    for file in older.glob(pattern):
        shutil.copy(file, source)
    return source


def check_as_transformers(source: Path) -> None:
    """One matrix of every seed differs from that of every other."""
    name = next(name for name in Checkpoint(source).tensors if name.endswith("layers.0.self_attn.q_proj.weight"))
    expected = LLAVA.decoder(load_model(source, LLAVA)).layers[0].self_attn.q_proj.weight.detach().numpy()
    np.testing.assert_array_equal(Checkpoint(source).tensors[name].read(), expected)


@pytest.mark.parametrize("pattern", ["model*", INDEX], ids=["index and shards", "index alone"])
def test_a_single_file_comes_before_an_index(tiny_llava: Path, tmp_path: Path, older: Path, pattern: str) -> None:
    source = copied(tiny_llava, tmp_path, older, pattern)
    check_as_transformers(source)
    checkpoint = Checkpoint(source)
    assert [file.name for file in checkpoint.files] == ["model.safetensors"]
    assert {file.name for file in checkpoint.ignored} == {file.name for file in older.glob(pattern)}


@pytest.mark.parametrize("named", ["newer.safetensors", "newer.safetensors.index.json"])
def test_what_the_config_names_comes_first(tiny_llava: Path, tmp_path: Path, older: Path, named: str) -> None:
    source = copied(tiny_llava, tmp_path, older, "model-*")
    if named.endswith("json"):
        shutil.copy(older / INDEX, source / named)
    else:
        shutil.copy(write_tiny_llava(tmp_path / "third", seed=2) / "model.safetensors", source / named)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"transformers_weights": named}))
    check_as_transformers(source)
    assert "model.safetensors" in {file.name for file in Checkpoint(source).ignored}


@pytest.mark.parametrize("named", ["../else.safetensors", "/else.safetensors", "model.gguf", 5])
def test_a_config_cannot_name_other_files(tiny_llava: Path, tmp_path: Path, named: object) -> None:
    source = Path(shutil.copytree(tiny_llava, tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"transformers_weights": named}))
    with pytest.raises(UserError, match="transformers_weights"):
        _ = Checkpoint(source).files
