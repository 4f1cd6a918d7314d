"""The checkpoint that other runtimes load: its special tokens are where its config says, its prompt is 636 tokens."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from configurations import CONFIGURATIONS, as_config
from peers import checkpoint

from fastv_runtime.config.bundle import Tokens
from fastv_runtime.generation.prompts.prompt import PromptBuilder
from fastv_runtime.preprocessing import GraphRun, Visual
from fastv_runtime.preprocessing.images.loading import open_image

SIDE = checkpoint.PIXELS // 28


def test_the_prompt_has_576_visual_tokens_and_60_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = copy.deepcopy(CONFIGURATIONS[checkpoint.CONFIGURATION])
    small = as_config(entry | {"text_config": entry["text_config"] | {"num_hidden_layers": 1, "intermediate_size": 64}})
    monkeypatch.setattr(checkpoint, "configuration", lambda name: small)
    out, image = tmp_path / "out", tmp_path / "image.png"
    checkpoint.write_checkpoint(out)
    checkpoint.write_image(image)
    loaded = AutoConfig.from_pretrained(out)
    assert loaded.text_config.rope_parameters["mrope_section"] == [8, 12, 12]
    assert loaded.text_config.rope_parameters["rope_theta"] == 1000000.0
    builder = PromptBuilder(out, Tokens(image=loaded.image_token_id, video=loaded.video_token_id, stop=(7992,)))
    for attribute, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ):
        assert builder.tokenizer.convert_ids_to_tokens(getattr(loaded, attribute)) == token
    assert builder.tokenizer.eos_token_id == loaded.text_config.eos_token_id
    assert len(builder.tokenizer) == loaded.text_config.vocab_size
    assert open_image(image).size == (28 * SIDE, 28 * SIDE)
    visual = Visual(kind="image", graph="vision", pieces=(), text=(GraphRun(SIDE * SIDE),), views=list)
    prompt = builder.build(checkpoint.QUESTION, [visual])
    assert (prompt.token_ids.size, prompt.visual.sum()) == (636, 576)
