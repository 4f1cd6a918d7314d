"""Random checkpoints are what transformers would have saved, written in bounded memory, whole or not at all."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import signal
import sys
import tracemalloc
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import random_checkpoint
import random_qwen_vl_chat
import random_weights
from configurations import CONFIGURATIONS, as_config, configuration

from fastv_export.checkpoint.checkpoint import Checkpoint

TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
VOCABULARY = 320


def tiny(name: str) -> dict[str, Any]:
    """A named configuration made small, its structure kept."""
    entry = copy.deepcopy(CONFIGURATIONS[name])
    entry["text_config"] |= TEXT | {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "bos_token_id": 1}
    entry["text_config"] |= {"eos_token_id": 3, "pad_token_id": 0}
    tower = entry["vision_config"]
    if "depth" in tower:
        tower |= {"depth": 2, "num_heads": 4, "hidden_size": 64, "embed_dim": 64}
    else:
        tower |= TEXT | {"image_size": 56, "patch_size": 14}
    if "rope_parameters" in entry["text_config"] and "mrope_section" in entry["text_config"]["rope_parameters"]:
        entry["text_config"]["rope_parameters"]["mrope_section"] = [2, 3, 3]
    for index, token in enumerate(
        ("image_token_index", "image_token_id", "video_token_index", "video_token_id", "vision_start_token_id")
    ):
        if token in entry:
            entry[token] = 300 + index
    return entry


TINY = {name: tiny(name) for name in ("llava-1.5-7b", "llava-v1.6-mistral-7b", "llava-onevision-0.5b", "qwen2-vl-2b")}
TINY["internvl3-1b"] = tiny("internvl3-1b")
TINY["internvl3-1b"]["vision_config"] |= {"image_size": [56, 56], "patch_size": [14, 14]}
TINY["video-llava-7b"] = tiny("video-llava-7b")
TINY["smolvlm2-2.2b"] = tiny("smolvlm2-2.2b") | {"scale_factor": 2}


def write(entry: dict[str, Any], out: Path, **options: Any) -> Path:
    random_checkpoint.write_random_checkpoint(as_config(entry), out, **options)
    return out


@pytest.mark.parametrize("name", TINY)
def test_transformers_loads_every_tensor_and_no_other(name: str, tmp_path: Path) -> None:
    path = write(TINY[name], tmp_path / "out", shard_size=64 << 10)
    model, report = AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True)
    assert not any(report.values()), report
    assert model.dtype == torch.float16
    # The same names as transformers' own save: no tied tensor twice, no old name.
    model.save_pretrained(tmp_path / "saved", max_shard_size=64 << 10)
    assert set(Checkpoint(path).tensors) == set(Checkpoint(tmp_path / "saved").tensors)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert len(tokenizer) == VOCABULARY
    assert tokenizer.convert_ids_to_tokens(model.config.image_token_id).startswith("<")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 3)
    assert AutoImageProcessor.from_pretrained(path, backend="pil") is not None


def test_a_forward_in_half_precision_neither_overflows_nor_vanishes(tmp_path: Path) -> None:
    path = write(TINY["llava-1.5-7b"], tmp_path / "out")
    model: Any = AutoModelForImageTextToText.from_pretrained(path)
    ids = torch.tensor([[1, *[model.config.image_token_id] * 16, *range(10, 20)]])
    with torch.no_grad():
        pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0)).half()
        output = model(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    for states in (*output.hidden_states, output.logits):
        assert torch.isfinite(states).all()
        assert 0.1 < states.float().std() < 10


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    entry = TINY["llava-1.5-7b"]
    files = [write(entry, tmp_path / str(i), seed=seed) / "model.safetensors" for i, seed in enumerate((1, 1, 2))]
    first, again, other = (file.read_bytes() for file in files)
    assert first == again
    assert first != other


def test_shards_are_small_and_indexed(tmp_path: Path) -> None:
    limit = 32 << 10
    path = write(TINY["qwen2-vl-2b"], tmp_path / "out", dtype="bf16", shard_size=limit)
    index = json.loads((path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    total = 0
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(path / file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  not a dictionary
        assert tensors.keys() == {name for name, where in index["weight_map"].items() if where == file}
        assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= limit or len(tensors) == 1
        total += size
    assert total == index["metadata"]["total_size"]


def test_no_two_rows_of_a_matrix_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block repeats within a tensor; a row length that divided it would make whole rows repeat."""
    monkeypatch.setattr(random_weights, "BLOCK", 1021)
    noise = random_weights.Noise(0)
    rows = np.concatenate(list(noise.blocks("lm_head.weight", (1000, 64), np.float32))).reshape(1000, 64)
    assert len(np.unique(rows, axis=0)) == 1000
    assert abs(rows.std() - 1 / 8) < 0.01


def test_memory_is_bounded_by_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_weights, "BLOCK", 65521)
    shards = random_weights.plan_shards({"one.weight": (4096, 1024)}, "fp16", 1 << 30)
    tracemalloc.start()
    try:
        random_weights.write_shards(tmp_path, shards, "fp16", 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "model.safetensors").stat().st_size > 8 << 20
    assert peak < 1 << 20


def test_sparse_shards_have_the_size_but_not_the_blocks(tmp_path: Path) -> None:
    entry = tiny("llava-1.5-7b")
    entry["text_config"]["vocab_size"] = 40000
    sparse = write(entry, tmp_path / "sparse", sparse=True) / "model.safetensors"
    full = write(entry, tmp_path / "full") / "model.safetensors"
    assert sparse.stat().st_size == full.stat().st_size
    assert sparse.stat().st_blocks < full.stat().st_blocks / 10
    assert Checkpoint(sparse.parent).tensors.keys() == Checkpoint(full.parent).tensors.keys()


def test_qwen_vl_chat(tmp_path: Path) -> None:
    """No class to compare with: the published count of parameters, and special tokens behind the vocabulary."""
    shapes = random_qwen_vl_chat.parameter_shapes(configuration("qwen-vl-chat"))
    assert sum(prod(shape) for shape in shapes.values()) == 9_656_935_168
    entry = CONFIGURATIONS["qwen-vl-chat"] | {"hidden_size": 64, "kv_channels": 16, "num_attention_heads": 4}
    entry |= {"num_hidden_layers": 2, "intermediate_size": 192, "vocab_size": 600}
    entry["visual"] = entry["visual"] | {"layers": 2, "width": 32, "output_dim": 64, "image_start_id": 500}
    path = write(entry, tmp_path / "out")
    tensors = Checkpoint(path).tensors
    assert tensors["transformer.h.1.mlp.w1.weight"].shape == (96, 64)
    assert tensors["transformer.visual.attn_pool.attn.in_proj_weight"].shape == (192, 64)
    assert json.loads((path / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == "float16"
    lines = (path / "qwen.tiktoken").read_text(encoding="ascii").splitlines()
    assert [int(line.split()[1]) for line in lines] == list(range(500 - 214))
    assert len({line.split()[0] for line in lines}) == len(lines)


PUBLISHED_GB = {
    "llava-onevision-0.5b": (1.79, 2),
    "video-llava-7b": (14.74, 2),
    "internvl3-1b": (1.88, 2),
    "smolvlm-256m": (0.513, 2),
    "smolvlm-500m": (1.02, 2),
    "smolvlm2-2.2b": (8.99, 4),
}
"""Gigabytes of the published weights and bytes per parameter, as their repositories list them."""


@pytest.mark.parametrize("name", PUBLISHED_GB)
def test_named_configurations_have_the_published_size(name: str) -> None:
    published, width = PUBLISHED_GB[name]
    shapes = random_checkpoint.saved_shapes(random_checkpoint.build_on_meta(configuration(name)))
    assert sum(prod(shape) for shape in shapes.values()) * width / 1e9 == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_named_configurations_say_what_transformers_reads(name: str, tmp_path: Path) -> None:
    """A setting that a config class renames, overrides or does not know would describe another model."""
    config = configuration(name)
    if isinstance(config, dict):
        return
    config.save_pretrained(tmp_path)
    loaded = Checkpoint(tmp_path).config
    for part in ("vision_config", "text_config"):
        for key, value in CONFIGURATIONS[name][part].items():
            assert getattr(getattr(loaded, part), key) in (value, as_tuple(value)), f"{part}.{key}"
    for key, value in CONFIGURATIONS[name].items():
        assert key.endswith("_config") or getattr(loaded, key) == value, key
    assert loaded.image_token_id < loaded.get_text_config().vocab_size


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def failed(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as exit_:
        random_checkpoint.main(arguments)
    assert exit_.value.code == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("random_checkpoint.py: ") or code != 2
    return last


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(TINY["llava-1.5-7b"]), encoding="utf-8")
    return str(file)


def test_a_full_disk_is_one_line(
    config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 990, 10))  # type: ignore
        assert "are free: make room" in failed([config_file, str(out)], capsys)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(random_checkpoint, "write_shards", full)
    assert "the disk is full: make room" in failed([config_file, str(out)], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


def test_a_terminated_run_leaves_nothing(
    config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = signal.getsignal(signal.SIGTERM)
    seen = []

    def terminated(folder: Path, *_: Any, **__: Any) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(random_checkpoint, "write_shards", terminated)
    try:
        said = failed([config_file, str(tmp_path / "out")], capsys, code=128 + signal.SIGTERM)
        assert said == "random_checkpoint.py: ended by SIGTERM"
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert len(seen[0]) == 2  # it was there while it was written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


def test_bad_input_is_one_line(config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "neither a file nor a known configuration; known: llava-1.5-7b" in failed(["llava-2", "out"], capsys)
    assert "already exists" in failed([config_file, str(tmp_path)], capsys)
    assert "no such directory" in failed([config_file, str(tmp_path / "no" / "out")], capsys)
    assert "'4 parsecs' is not a size" in failed([config_file, "out", "--shard-size", "4 parsecs"], capsys)
    other = tmp_path / "other.json"
    for content, message in (
        ("{", "not a JSON object that names its model_type"),
        ("{}", "not a JSON object that names its model_type"),
        ('{"model_type": "bert"}', "special tokens and image processor are not known"),
    ):
        other.write_text(content, encoding="utf-8")
        assert message in failed([str(other), str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()
