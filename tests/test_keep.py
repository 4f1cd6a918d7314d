"""`keep` of one prompt, from one bundle: what a bundle exported with that keep says, and transformers, masked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model, pruned
from fastv_runtime import Answer, Pipeline
from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.errors import UserError
from tests.conftest import MakeBundle, noise_image

QUESTION = "What color is the circle?"
VISUAL = 144
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def exported(tiny_llava: Path, make_bundle: MakeBundle) -> Path:
    """As `tiny_bundle`, with another keep."""
    return make_bundle(tiny_llava, keep=0.25, max_images=2, max_text=64, max_new_tokens=64, verify=False)


def ask(pipeline: Pipeline, seed: int, **options: Any) -> Answer:
    return pipeline.generate([noise_image(seed)], QUESTION, max_new_tokens=NEW_TOKENS, ignore_stop=True, **options)


@pytest.fixture(scope="module")
def stock(tiny_llava: Path) -> tuple[Any, Any]:
    model = load_model(tiny_llava, FAMILIES["llava"])
    model.generation_config.eos_token_id = None
    return model, AutoProcessor.from_pretrained(tiny_llava, local_files_only=True)


def masked(stock: tuple[Any, Any], seed: int, keep: float, step: int) -> tuple[list[int], list[int]]:
    """Visual tokens that stay, and the answer, of transformers masked from layer 2 on; text is rounded up to `step`."""
    model, processor = stock
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[noise_image(seed)], text=text, return_tensors="pt", add_special_tokens=False)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    assert int(visual.sum()) == VISUAL
    words = int((~visual).sum())
    length = math.ceil(words / step) * step + round(keep * VISUAL)
    with torch.no_grad(), pruned(model.get_decoder(), 2, visual, length) as pruning:
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    order = torch.cumsum(visual, 0) - 1
    return order[pruning.keep[visual[pruning.keep]]].tolist(), output[0, visual.numel() :].tolist()


@pytest.mark.parametrize(("policy", "step"), [("exact", 1), ("fixed", 32)])
@pytest.mark.parametrize("keep", [0.05, 0.25, 0.4, 0.5])
def test_an_answer_is_that_of_transformers_masked(
    tiny_pipeline: Pipeline, stock: tuple[Any, Any], keep: float, policy: str, step: int
) -> None:
    seed = round(100 * keep)
    answer = ask(tiny_pipeline, seed, keep=keep, length=policy)
    assert (answer.kept_visual_tokens, answer.token_ids) == masked(stock, seed, keep, step)
    assert answer.keep == keep


@pytest.mark.parametrize(("policy", "step"), [("exact", 1), ("fixed", 32)])
def test_cuts_of_a_prompt_are_those_of_transformers_masked(
    tiny_pipeline: Pipeline, stock: tuple[Any, Any], policy: str, step: int
) -> None:
    answer = ask(tiny_pipeline, 3, cuts=[0.2], length=policy)
    assert (answer.kept_visual_tokens, answer.token_ids) == masked(stock, 3, 0.2, step)
    assert (answer.keep, [cut.layer for cut in answer.cuts]) == (0.2, [2])


@pytest.mark.parametrize("policy", ["exact", "fixed"])
def test_an_answer_is_that_of_a_bundle_exported_so(exported: Path, tiny_pipeline: Pipeline, policy: str) -> None:
    one = ask(Pipeline.load(exported, threads=1), 7, length=policy)
    asked = ask(tiny_pipeline, 7, length=policy, keep=0.25)
    assert (asked.token_ids, asked.kept_visual_tokens) == (one.token_ids, one.kept_visual_tokens)
    assert (asked.pruned_length, asked.notes) == (one.pruned_length, one.notes)
    assert asked.keep == one.keep == 0.25


def test_a_keep_of_one_prompt_ends_with_it(tiny_pipeline: Pipeline) -> None:
    before = ask(tiny_pipeline, 1)
    assert len(ask(tiny_pipeline, 1, keep=0.1).kept_visual_tokens) == round(0.1 * VISUAL)
    after = ask(tiny_pipeline, 1)
    assert after.keep == 0.5 and len(after.kept_visual_tokens) == VISUAL // 2
    assert (before.token_ids, before.kept_visual_tokens) == (after.token_ids, after.kept_visual_tokens)


def test_graphs_do_not_depend_on_keep(tiny_bundle: Path, exported: Path) -> None:
    """Were it otherwise, a keep of one prompt would not be the plan's with that keep."""
    one, two = read_manifest(tiny_bundle), read_manifest(exported)
    for name in ("prefix", "select"):
        assert one.files[one.graphs[name].file].sha256 == two.files[two.graphs[name].file].sha256


def test_a_keep_beyond_the_buffers_names_the_largest(tiny_pipeline: Pipeline) -> None:
    images = [noise_image(1), noise_image(2)]
    answer = tiny_pipeline.generate(images, QUESTION, max_new_tokens=1)
    room = tiny_pipeline.capacity.pruned - (answer.prompt_tokens - 2 * VISUAL)
    with pytest.raises(UserError, match=r"`keep` 1: the pruned prompt has \d+ tokens .* at most for this") as caught:
        tiny_pipeline.generate(images, QUESTION, keep=1)
    largest = float(str(caught.value).split("it can be ")[1].split()[0])
    answer = tiny_pipeline.generate(images, QUESTION, keep=largest, max_new_tokens=1)
    assert len(answer.kept_visual_tokens) == room


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, math.nan])
def test_a_senseless_keep_is_refused(tiny_pipeline: Pipeline, keep: float) -> None:
    with pytest.raises(UserError, match="must be above 0 and at most 1"):
        ask(tiny_pipeline, 1, keep=keep)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cuts": [0.5, 0.2]}, "`cuts` 0.5 0.2: 2 given, and this bundle cuts at layer 2: give one for each cut"),
        ({"cuts": []}, "`cuts`: must be a list of numbers"),
        ({"cuts": "0.5"}, "`cuts`: must be a list of numbers"),
        ({"cuts": 0.5}, "`cuts`: must be a list of numbers"),
        ({"cuts": [0.0]}, "`cuts` 0: must be above 0 and at most 1"),
        ({"cuts": [math.nan]}, "`cuts` nan: must be above 0 and at most 1"),
        ({"cuts": ["much"]}, "`cuts` 'much': must be a number"),
        ({"cuts": [0.2], "keep": 0.2}, "`cuts`: says what each cut keeps, and `keep` too"),
        ({"cuts": [0.2], "keep": "auto"}, "`cuts`: says what each cut keeps, and `keep` too"),
        ({"cuts": [0.2], "share": 0.5}, "`cuts`: says what each cut keeps, and `share` too"),
    ],
)
def test_senseless_cuts_are_refused(tiny_pipeline: Pipeline, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as caught:
        ask(tiny_pipeline, 1, **options)
    assert str(caught.value).startswith(why)


def test_cuts_beyond_the_buffers_name_the_largest(tiny_pipeline: Pipeline) -> None:
    images = [noise_image(1), noise_image(2)]
    with pytest.raises(UserError, match=r"`cuts` 1: the pruned prompt has \d+ tokens .* at most for this") as caught:
        tiny_pipeline.generate(images, QUESTION, cuts=[1.0])
    largest = float(str(caught.value).split("that fraction can be ")[1].split()[0])
    tiny_pipeline.generate(images, QUESTION, cuts=[largest], max_new_tokens=1)
    with pytest.raises(UserError, match="`cuts`"):
        tiny_pipeline.generate(images, QUESTION, cuts=[largest + 0.01], max_new_tokens=1)
