"""The pipeline against transformers: kept tokens, logits and 64 greedy tokens, on many images and prompts.

The reference is the stock model's own `generate`. Pruning is the masked form of FastV: the tokens that are not kept
are hidden from layer K on. Nothing of the graphs or of the runtime takes part in it.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from demo import heldout
from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model, pruned
from fastv_runtime import Pipeline
from fastv_runtime.config.bundle import Bundle, read_manifest
from tests.conftest import DEMO, MakeBundle, noise_image

NEW_TOKENS = 64
MAX_TEXT = 72
QUESTIONS = [
    "What color is the circle?",
    "Where is the triangle?",
    "How many shapes are red?",
    "Is there a blue square?",
    "Describe the star. Ünïcode, 数字 and 🙂 too.",
]


@pytest.fixture(scope="module", params=["demo", "tiny"])
def source(request: pytest.FixtureRequest, tiny_llava: Path) -> Path:
    return DEMO if request.param == "demo" else tiny_llava


@pytest.fixture(scope="module")
def stock(source: Path) -> tuple[Any, Any]:
    """The stock model and processor; stop tokens off, so that every answer has 64 tokens."""
    model = load_model(source, FAMILIES["llava"])
    model.generation_config.eos_token_id = None
    return model, AutoProcessor.from_pretrained(source, local_files_only=True)


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
def test_answers_are_those_of_transformers(
    source: Path, stock: tuple[Any, Any], make_bundle: MakeBundle, layer: int, keep: float
) -> None:
    # No graph depends on keep: one bundle serves all.
    bundle = make_bundle(
        source,
        layer=layer,
        keep=1.0,
        max_images=2,
        max_text=MAX_TEXT,
        max_new_tokens=NEW_TOKENS,
        verify=False,
    )
    manifest = read_manifest(bundle)
    pipeline = Pipeline(Bundle(bundle, manifest), threads=1)
    # Four pairs, of other images in each test; all of these tests together compare 72.
    for seed, (policy, count) in enumerate(product(("fixed", "exact"), (1, 2))):
        case = f"{source.name} K={layer} keep={keep} {policy} {count} images seed {seed}"
        number = 10 * seed + 3 * layer + count + round(40 * keep)
        if source == DEMO:
            samples = heldout.samples(number + count)[number:]
            images, question = [sample.image for sample in samples], samples[0].question
        else:
            images = [noise_image(100 * number + index) for index in range(count)]
            question = QUESTIONS[number % len(QUESTIONS)]
        _compare(case, pipeline, stock, images, question, policy, keep)


def _compare(
    case: str,
    pipeline: Pipeline,
    stock: tuple[Any, Any],
    images: list[Image.Image],
    question: str,
    policy: str,
    keep: float,
) -> None:
    model, processor = stock
    plan = pipeline.bundle.manifest.plan
    (layer,) = plan.cut_layers
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=images, text=text, return_tensors="pt", add_special_tokens=False)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    count = int(visual.sum())
    budget = visual.numel() - count
    if policy == "fixed":
        budget = 32 * math.ceil(budget / 32)
    length = min(visual.numel(), budget + round(count * keep))
    with torch.no_grad(), pruned(model.get_decoder(), layer, visual, length) as pruning:
        expected = _generate(model, inputs)

    generation = pipeline.stream(
        images, question, max_new_tokens=NEW_TOKENS, length=policy, keep=keep, ignore_stop=True
    )
    logits = pipeline.logits.copy()
    answer = generation.answer
    assert answer.prompt_tokens == visual.numel(), case
    assert (answer.pruned_length, answer.keep) == (length, keep), case
    for _ in generation:
        pass
    order = torch.cumsum(visual, 0) - 1
    expected_kept = order[pruning.keep[visual[pruning.keep]]].tolist()
    # Many of the demo's scores are within 1e-6 of each other: their order is that of relative precision, and stable.
    assert answer.kept_visual_tokens == expected_kept, case
    np.testing.assert_allclose(logits, expected.logits[0][0].numpy(), atol=1e-3, rtol=0, err_msg=case)
    tokens = expected.sequences[0, visual.numel() :].tolist()
    assert answer.token_ids == tokens, case
    if keep == 1.0:
        with torch.no_grad():
            assert answer.token_ids == _generate(model, inputs).sequences[0, visual.numel() :].tolist(), case


def _generate(model: Any, inputs: Any) -> Any:
    return model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
