"""The drill: transformers renames what is relied on, and a command says so in one line before it computes anything."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PhiConfig, PhiModel
from transformers.models.llama import modeling_llama

from fastv_calib.samples.inputs import InputMaker
from fastv_export import hf
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.cli import main as fastv_export
from fastv_export.families import FAMILIES
from fastv_runtime.errors import UserError

RENAMES = [
    (r"\b(?:cache|past_key_values)\b", "kv_store", "cache or past_key_values"),
    ("position_embeddings", "turns", "position_embeddings"),
]


@pytest.fixture(params=RENAMES, ids=["cache", "rotary"])
def missing(request: pytest.FixtureRequest, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a transformers lacks whose Llama layers have another name for a keyword; it works as before."""
    old, new, missing = request.param
    before = _logits(tiny_llava)
    for owner in (modeling_llama.LlamaAttention, modeling_llama.LlamaDecoderLayer):
        _rewrite(monkeypatch, owner, lambda source: re.sub(old, new, source))
    call = re.compile(rf"(decoder_layer\(.*?){old}=", re.DOTALL)
    _rewrite(monkeypatch, modeling_llama.LlamaModel, lambda source: call.sub(rf"\1{new}=", source))
    torch.testing.assert_close(_logits(tiny_llava), before, rtol=0, atol=0)
    return missing


def test_an_export_names_what_transformers_renamed(
    missing: str, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        fastv_export([str(tiny_llava), "-o", str(tmp_path / "out.fastv")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        f"fastv-export: transformers {transformers.__version__}: LlamaDecoderLayer.forward takes no "
    )
    assert f"takes no {missing}, only hidden_states, " in line
    assert not list(tmp_path.iterdir())


def test_so_does_a_calibration(missing: str, tiny_llava: Path) -> None:
    checkpoint, family = Checkpoint(tiny_llava), FAMILIES["llava"]
    with pytest.raises(UserError, match=rf"LlamaDecoderLayer\.forward takes no {missing}, only "):
        InputMaker(checkpoint, family, family.load(checkpoint))


def test_a_decoder_of_another_build_is_named() -> None:
    config = PhiConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    with pytest.raises(UserError, match="PhiModel has no norm: either this model is of another build than") as raised:
        hf.check_decoder(PhiModel(config))
    assert "\n" not in str(raised.value)


def _rewrite(monkeypatch: pytest.MonkeyPatch, owner: type, change: Any) -> None:
    """Give a class of transformers the `forward` that it would have if its source were another."""
    source = textwrap.dedent(inspect.getsource(owner.forward))  # type: ignore[attr-defined]
    changed = change(source)
    assert changed != source
    # The first reads the file that a function is from, the second knows the names of before.
    changed = re.sub(r"@(auto_docstring|deprecate_kwarg\().*\n", "", changed)
    made: dict[str, Any] = {}
    exec(changed, vars(modeling_llama), made)
    monkeypatch.setattr(owner, "forward", made["forward"])


def _logits(path: Path) -> torch.Tensor:
    model = FAMILIES["llava"].load(Checkpoint(path))
    with torch.no_grad():
        return model(input_ids=torch.arange(9)[None]).logits
