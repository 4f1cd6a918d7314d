"""Rules over logits: what transformers' own processors do to them, and whole answers under them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor, GenerationConfig
from transformers.generation import GenerationMixin

from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model
from fastv_runtime import Pipeline, Sampling
from fastv_runtime.config.bundle import Bundle, read_manifest
from fastv_runtime.config.generation_config import GenerationDefaults
from fastv_runtime.config.lengths import with_keep
from fastv_runtime.generation.logit_rules import LogitRules
from tests.conftest import noise_image

VOCABULARY = 7
EOS = [1, 4]
QUESTION = "What is it?"
token = st.integers(0, VOCABULARY - 1)
words = st.lists(token, min_size=1, max_size=3).map(tuple)
settings = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.floats(0.5, 3),
        "no_repeat_ngram_size": st.integers(1, 4),
        "bad_words_ids": st.lists(words, min_size=1, max_size=3).filter(lambda all: any(len(w) > 1 for w in all)),
        "suppress_tokens": st.lists(token, min_size=1, max_size=2),
        "begin_suppress_tokens": st.lists(token, min_size=1, max_size=2),
        "min_new_tokens": st.integers(1, 3),
    },
)


class _Stock:
    """As much of a model as transformers' choice of processors reads."""

    class config:
        is_encoder_decoder = False

    _merge_criteria_processor_list = GenerationMixin._merge_criteria_processor_list


def stock_processors(settings: dict[str, Any], prompt: torch.Tensor) -> Any:
    config = GenerationConfig(**{name: _listed(value) for name, value in settings.items()})
    config._eos_token_tensor = torch.tensor(EOS)
    return GenerationMixin._get_logits_processor(_Stock(), config, prompt.shape[1], device="cpu")  # type: ignore[arg-type]


def _listed(value: Any) -> Any:
    return [_listed(each) for each in value] if isinstance(value, (list, tuple)) else value


@given(
    settings=settings,
    prompt=st.lists(token, min_size=1, max_size=8),
    generated=st.lists(token, max_size=6),
    seed=st.integers(0, 9),
)
def test_logits_are_those_that_transformers_makes(
    settings: dict[str, Any], prompt: list[int], generated: list[int], seed: int
) -> None:
    logits = np.random.default_rng(seed).standard_normal(VOCABULARY).astype(np.float32)
    before = logits.copy()
    rules = LogitRules(GenerationDefaults(**settings), np.asarray(prompt), EOS)
    ours = rules(logits, generated)
    processors = stock_processors(settings, torch.tensor([prompt]))
    theirs = processors(torch.tensor([prompt + generated]), torch.tensor(before)[None])[0]
    np.testing.assert_array_equal(ours, theirs.numpy())
    np.testing.assert_array_equal(logits, before)
    assert rules.idle == (len(processors) == 0 or (settings.get("repetition_penalty") == 1 and len(settings) == 1))


def test_a_caller_may_ask_for_another_penalty() -> None:
    defaults = GenerationDefaults(repetition_penalty=2)
    logits = np.asarray([1, -1, 1], np.float32)
    prompt = np.asarray([0, 1])
    assert LogitRules(defaults, prompt, (), 1).idle
    assert LogitRules(defaults, prompt, (), 4)(logits, []).tolist() == [0.25, -4, 1]
    assert LogitRules(defaults, prompt, ())(logits, [2]).tolist() == [0.5, -2, 0.5]


RULES: dict[str, Callable[[list[int]], dict[str, Any]]] = {
    "penalty": lambda plain: {"repetition_penalty": 1.3, "max_new_tokens": 20},
    "bans": lambda plain: {
        "no_repeat_ngram_size": 2,
        "begin_suppress_tokens": plain[:1],
        "suppress_tokens": plain[3:4],
        "min_new_tokens": 6,
        "max_new_tokens": 16,
    },
}
"""What a generation config has, by the answer that it would have without."""


@pytest.mark.parametrize("name", RULES)
def test_an_answer_is_what_generate_makes_of_the_checkpoint(tiny_llava: Path, tiny_bundle: Path, name: str) -> None:
    processor = AutoProcessor.from_pretrained(tiny_llava, local_files_only=True)
    image = noise_image(3)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt", add_special_tokens=False)
    length = inputs["input_ids"].shape[1]
    stock = load_model(tiny_llava, FAMILIES["llava"])
    plain = stock.generate(**inputs, do_sample=False, max_new_tokens=16)[0, length:].tolist()
    settings = RULES[name](plain)
    stock.generation_config.update(**settings)
    expected = stock.generate(**inputs, do_sample=False)[0, length:].tolist()
    assert expected[:16] != plain

    manifest = read_manifest(tiny_bundle)
    plan = with_keep(manifest.plan, 1.0)
    manifest = manifest.model_copy(update={"plan": plan, "generation": GenerationDefaults(**settings)})
    pipeline = Pipeline(Bundle(tiny_bundle, manifest), threads=1)
    assert pipeline.generate([image], QUESTION).token_ids == expected
    if name == "penalty":
        without = pipeline.generate([image], QUESTION, max_new_tokens=16, sampling=Sampling(repetition_penalty=1))
        assert without.token_ids == plain
