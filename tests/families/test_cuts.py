"""Plans of two and three cuts, every family, against transformers' own forward with masks.

Compared as one cut is in `test_families`: what is kept after each cut, logits, 32 greedy tokens, caches of every layer.
Three cuts begin at layer 1, two of them are side by side, and the last is before the last layer; with deepstack, a
graph in the middle adds each feature. Two cuts have several layers in each graph. Qwen-VL-Chat, which has no stock
class, is compared in `test_qwen_vl_chat`.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from fastv_export.families import FAMILIES
from fastv_export.verify.reference import ReferenceCut, load_model, pruned_by
from fastv_runtime import Pipeline
from tests import oracle
from tests.conftest import MakeBundle, noise_image
from tests.families.conftest import CheckpointOf
from tests.families.row import Row
from tests.families.rows import ROWS
from tests.families.test_families import LENGTHS, QUESTIONS, compare
from tests.families.test_oracle import FIRST_ROWS, TOKENS, Case
from tests.plans import cuts_at, with_keeps

KEEPS = (0.7, 0.4, 0.2)
"""After each of three cuts; two have the last two."""

VERIFIED = ("llava", "qwen3_vl")
"""Whose export with three cuts verifies itself: golden vectors of every form that graphs between cuts have."""


@pytest.mark.parametrize("row", [row for row in FIRST_ROWS if not row.name.endswith("mistral")], ids=str)
def test_every_cut_is_what_transformers_computes(
    row: Row, checkpoint_of: CheckpointOf, make_bundle: MakeBundle
) -> None:
    source = checkpoint_of(row)
    stock = load_model(source, FAMILIES[row.model_type])
    stock.generation_config.eos_token_id = None
    last = stock.config.get_text_config().num_hidden_layers - 1
    # A prompt about several images or a video through three cuts, about one image through two.
    for layers, part in (((1, 2, last), slice(-1, None)), ((2, last), slice(1))):
        asked = replace(row, cases=row.cases[part], videos=row.videos[part])
        cuts = list(zip(layers, KEEPS[-len(layers) :], strict=True))
        compare(asked, source, stock, make_bundle, cuts, verify=len(layers) == 3 and row.model_type in VERIFIED)


@pytest.fixture
def three_cuts(request: pytest.FixtureRequest, checkpoint_of: CheckpointOf, make_bundle: MakeBundle) -> Path:
    """The bundle that the row of this name has above."""
    row = next(row for row in ROWS if str(row) == request.param)
    return make_bundle(checkpoint_of(row), cuts=cuts_at(1, 2, 4), **LENGTHS | row.options)


@pytest.mark.parametrize(
    ("three_cuts", "video"), [("llava", False), ("qwen3_vl", False), ("qwen3_vl", True)], indirect=["three_cuts"]
)
def test_rows_taken_out_give_the_same_answers(
    three_cuts: Path, request: pytest.FixtureRequest, checkpoint_of: CheckpointOf, video: bool
) -> None:
    """Beside an oracle that shares nothing with the exporter, its masks and where it cuts."""
    row = next(row for row in ROWS if str(row) == request.node.callspec.params["three_cuts"])
    case = Case(row, checkpoint_of, video)
    pipeline = Pipeline(with_keeps(three_cuts, KEEPS), threads=1)
    generation = pipeline.stream(case.images, QUESTIONS[1], videos=case.videos, max_new_tokens=TOKENS, ignore_stop=True)
    logits = torch.from_numpy(pipeline.logits.copy())
    for _ in generation:
        pass
    cuts = list(zip((1, 2, 4), KEEPS, strict=True))
    expected = oracle.answer(oracle.load(case.source), case.inputs, case.visual, cuts=cuts, tokens=TOKENS)
    assert generation.answer.kept_visual_tokens == expected.kept
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-3 * max(1, float(logits.abs().max())))
    assert generation.answer.token_ids == expected.tokens


@pytest.mark.parametrize(
    ("count", "keeps", "asked"),
    [
        (1, (0.7, 0.4, 0.2), {"length": "fixed"}),
        (2, (0.7, 0.5, 0.4), {"keep": 0.55}),
        (1, (0.99, 0.98, 0.97), {"length": "fixed"}),
        (1, (0.7, 0.4, 0.3), {"keep": 1.0}),
        (1, (0.7, 0.5, 0.4), {"cuts": (0.55, 0.5, 0.1)}),
        (2, (0.7, 0.5, 0.4), {"cuts": (0.3, 0.3, 0.3), "length": "fixed"}),
        (0, (0.7, 0.4, 0.2), {}),
        (0, (0.7, 0.4, 0.2), {"length": "fixed"}),
    ],
    ids=[
        "fixed",
        "keep",
        "nothing to drop, fixed",
        "nothing to drop, keep",
        "cuts",
        "equal cuts",
        "text",
        "text, fixed",
    ],
)
@pytest.mark.parametrize("three_cuts", ["llava"], indirect=True)
def test_whatever_a_prompt_asks_for(
    three_cuts: Path, tiny_stock: Any, count: int, keeps: tuple[float, ...], asked: dict[str, Any]
) -> None:
    """Lengths, notes, kept tokens and answers of several pruned lengths, and of prompts that lose nothing."""
    model, processor = tiny_stock
    images = [noise_image(seed) for seed in range(count)]
    content = [{"type": "image"}] * count + [{"type": "text", "text": QUESTIONS[0]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=images or None, text=text, return_tensors="pt", add_special_tokens=False)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    total, shown = visual.numel(), int(visual.sum())
    room = total - shown
    if asked.get("length") == "fixed":
        room = 32 * ceil(room / 32)
    fractions = asked.get("cuts") or [max(keep, asked.get("keep", 0)) for keep in keeps]
    lengths = [min(total, room + round(fraction * shown)) for fraction in fractions]
    if "keep" in asked:
        lengths[-1] = min(total, room + round(asked["keep"] * shown))
    cuts = [ReferenceCut(layer, length) for layer, length in zip((1, 2, 4), lengths, strict=True)]
    generate = {"max_new_tokens": TOKENS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad(), pruned_by(model.get_decoder(), visual, cuts) as prunings:
        expected = model.generate(**inputs, **generate)
    pipeline = Pipeline(with_keeps(three_cuts, keeps), threads=1)
    generation = pipeline.stream(images, QUESTIONS[0], max_new_tokens=TOKENS, ignore_stop=True, **asked)
    np.testing.assert_allclose(pipeline.logits, expected.logits[0][0].numpy(), atol=1e-3, rtol=0)
    answer = generation.answer
    for _ in generation:
        pass
    order = torch.cumsum(visual, 0) - 1
    assert [cut.pruned_length for cut in answer.cuts] == lengths
    assert [cut.kept_visual_tokens for cut in answer.cuts] == [
        order[each.keep[visual[each.keep]]].tolist() for each in prunings
    ]
    assert answer.token_ids == expected.sequences[0, total:].tolist()
    if lengths == [total] * 3:
        with torch.no_grad():
            assert answer.token_ids == model.generate(**inputs, **generate).sequences[0, total:].tolist()


@pytest.fixture(scope="module")
def tiny_stock(checkpoint_of: CheckpointOf) -> tuple[Any, Any]:
    source = checkpoint_of(next(row for row in ROWS if row.model_type == "llava"))
    model = load_model(source, FAMILIES["llava"])
    model.generation_config.eos_token_id = None
    return model, AutoProcessor.from_pretrained(source, local_files_only=True)
