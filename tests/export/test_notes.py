"""What an export says of settings that it reads in one of several ways, or does not heed. One export shows them all."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file

from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_runtime.config.generation_config import GenerationDefaults


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_an_export_says_how_it_reads_a_checkpoint(tiny_llava: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_llava, tmp_path / "source"))
    text = json.loads((source / "config.json").read_text())["text_config"]
    edit(source / "config.json", tie_word_embeddings=True, text_config=text | {"tie_word_embeddings": True})
    edit(source / "generation_config.json", repetition_penalty=1.3, num_beams=2)
    (source / "older.safetensors").write_bytes(b"")
    index = {"weight_map": {"lm_head.weight": "older.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    console = Console(record=True, width=200, file=io.StringIO())
    with Progress(console) as progress:
        manifest = export_bundle(source, tmp_path / "out.fastv", Options(max_new_tokens=8, prune=False), progress)
    said = console.export_text().replace("\n", "")
    for note in (
        "weights are read from model.safetensors, as transformers does, and not from "
        "model.safetensors.index.json, older.safetensors",
        "lm_head.weight and model.language_model.embed_tokens.weight are stored with different values",
        "generation_config.json: num_beams 2: not heeded here",
    ):
        assert note in said, note
    assert manifest.generation == GenerationDefaults(repetition_penalty=1.3)
    assert manifest.verified is not None
    assert max(manifest.verified.values()) < 1e-4
    assert not torch.equal(*_tied(source))


def _tied(source: Path) -> list[torch.Tensor]:
    tensors = load_file(source / "model.safetensors")
    return [tensor for name, tensor in tensors.items() if name.endswith(("lm_head.weight", "embed_tokens.weight"))]
