"""Settings of generation are read where transformers reads them; those that are not heeded are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.generation_config import generation_defaults, generation_notes
from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model
from fastv_runtime import UserError
from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.generation_config import GenerationDefaults
from fastv_runtime.config.plan import Plan

PLAN = Plan(
    cuts=one_cut(2, 0.5),
    length="exact",
    precision="float32",
    max_text=64,
    max_visual=144,
    max_new_tokens=64,
)


@pytest.fixture
def source(tiny_llava: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(tiny_llava, tmp_path / "source"))
    (path / "generation_config.json").unlink()
    return path


def edit(file: Path, **values: Any) -> None:
    have = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(have | values))


@pytest.mark.parametrize(
    ("own", "outer", "inner"),
    [
        ({"repetition_penalty": 1.3, "eos_token_id": [1, 5]}, {"repetition_penalty": 1.5}, {}),
        ({"eos_token_id": 7}, {"repetition_penalty": 1.5, "eos_token_id": 5}, {}),
        (None, {"repetition_penalty": 1.5, "eos_token_id": 5}, {"eos_token_id": 1}),
        (None, {"no_repeat_ngram_size": 3}, {"bad_words_ids": [[5, 6]], "eos_token_id": 9}),
    ],
)
def test_what_is_heeded_is_what_the_loaded_model_has(
    source: Path, own: dict[str, Any] | None, outer: dict[str, Any], inner: dict[str, Any]
) -> None:
    if own is not None:
        edit(source / "generation_config.json", **own)
    text = json.loads((source / "config.json").read_text())["text_config"]
    edit(source / "config.json", **outer, text_config=text | inner)
    family = FAMILIES["llava"]
    stock = load_model(source, family).generation_config
    checkpoint = Checkpoint(source)
    defaults = generation_defaults(checkpoint).model_dump(mode="json")
    for name, unset in GenerationDefaults().model_dump(mode="json").items():
        asked = getattr(stock, name)
        assert defaults[name] == (unset if asked is None else asked), name
    stop = stock.eos_token_id
    assert family.stop_tokens(checkpoint, checkpoint.config) == (tuple(stop) if isinstance(stop, list) else (stop,))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_sample": True, "temperature": 0.1}, "do_sample (temperature 0.1): answers are greedy unless temp"),
        ({"num_beams": 4, "forced_eos_token_id": 1}, "num_beams 4, forced_eos_token_id 1: not heeded"),
        ({"max_length": 30}, "max_length 30: not heeded, answers have up to `max_new_tokens`"),
    ],
)
def test_what_is_not_heeded_is_named(source: Path, settings: dict[str, Any], expected: str) -> None:
    edit(source / "generation_config.json", **settings)
    (note,) = generation_notes(Checkpoint(source), PLAN)
    assert f"generation_config.json: {expected}" in note


@pytest.mark.parametrize(
    "settings", [{}, {"max_length": 4096}, {"num_beams": 1, "repetition_penalty": 1.2, "max_new_tokens": 9}]
)
def test_nothing_is_said_of_what_changes_nothing(source: Path, settings: dict[str, Any]) -> None:
    edit(source / "generation_config.json", **settings)
    assert generation_notes(Checkpoint(source), PLAN) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty is 0: must be above 0: "),
        ({"suppress_tokens": [-1]}, r"suppress_tokens\.0 is -1: must be at least 0: "),
        ({"bad_words_ids": "no"}, "bad_words_ids is 'no': must be a list: "),
    ],
)
def test_senseless_values_are_refused(source: Path, settings: dict[str, Any], message: str) -> None:
    edit(source / "generation_config.json", **settings)
    with pytest.raises(UserError, match=f"generation_config.json: {message}"):
        generation_defaults(Checkpoint(source))


def test_a_damaged_file_is_named(source: Path) -> None:
    (source / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json: "):
        generation_defaults(Checkpoint(source))
