"""Every family's pruned answers against an oracle that takes rows out of the stock model, where ours masks them.

Qwen-VL-Chat, which has no stock class, is compared so in `test_qwen_vl_chat`.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import pytest
import torch

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_runtime import Pipeline
from tests import oracle
from tests.conftest import MakeBundle, noise_image
from tests.families.conftest import CheckpointOf
from tests.families.row import Row, noise_video
from tests.families.rows import ROWS
from tests.families.test_families import LAYER, NEW_TOKENS, QUESTIONS
from tests.plans import with_keeps

TOKENS = 12
KEEPS = (0.5, 0.25)
FIRST_ROWS = [row for row in ROWS if not row.name.endswith("_image_tokens")]
"""The others have the same decoders."""
WITH_VIDEO = {"qwen3_vl", "video_llava"}
"""Deepstack and text between time steps; a tower of its own."""


class Case:
    """A prompt about a row's first image, or first video: as the pipeline takes it, and as the stock model does."""

    def __init__(self, row: Row, checkpoint_of: CheckpointOf, video: bool):
        self.source = checkpoint_of(row)
        family = FAMILIES[row.model_type]
        config = family.config(Checkpoint(self.source))
        cases = zip_longest(row.cases, row.videos, fillvalue=0)
        sizes = next(sizes for sizes, frames in cases if bool(frames) == video)
        self.images, self.videos = [], []
        self.inputs: dict[str, Any]
        if video:
            assert row.video_inputs is not None
            self.videos = [noise_video(1, sizes[0], next(filter(None, row.videos)))]
            self.inputs = row.video_inputs(self.source, self.videos[0], QUESTIONS[1])
        else:
            self.images = [noise_image(index, size) for index, size in enumerate(sizes)]
            self.inputs = row.inputs(self.source, self.images, QUESTIONS[1])
        placeholder = family.video_token_id(config) if video else family.image_token_id(config)
        self.visual = self.inputs["input_ids"][0] == placeholder


@pytest.mark.parametrize("row", FIRST_ROWS, ids=str)
def test_pruned_answers_are_those_without_the_rows(
    row: Row, checkpoint_of: CheckpointOf, make_bundle: MakeBundle
) -> None:
    # The table of families has these bundles: no graph depends on keep.
    options = {"keep": 1.0, "max_text": 128, "max_new_tokens": NEW_TOKENS} | row.options
    bundle = make_bundle(checkpoint_of(row), layer=LAYER, verify=True, **options)
    model = oracle.load(checkpoint_of(row))
    for video in (False, True)[: 1 + (row.model_type in WITH_VIDEO)]:
        case = Case(row, checkpoint_of, video)
        first: list[torch.Tensor] = []
        for keep in KEEPS:
            pipeline = Pipeline(with_keeps(bundle, [keep]), threads=1)
            generation = pipeline.stream(
                case.images, QUESTIONS[1], videos=case.videos, max_new_tokens=TOKENS, ignore_stop=True
            )
            logits = torch.from_numpy(pipeline.logits.copy())
            for _ in generation:
                pass
            answer = generation.answer
            expected = oracle.answer(model, case.inputs, case.visual, cuts=[(LAYER, keep)], tokens=TOKENS)
            assert answer.kept_visual_tokens == expected.kept
            tolerance = 1e-3 * max(1, float(logits.abs().max()))
            torch.testing.assert_close(logits, expected.logits, rtol=0, atol=tolerance)
            assert answer.token_ids == expected.tokens
            first.append(logits)
        assert (first[0] - first[1]).abs().max() > 5 * tolerance, "rows make a difference that would be seen"


@pytest.mark.parametrize(
    "choose",
    [
        lambda scores, count: oracle.best(-scores, count),
        lambda scores, count: oracle.best(scores, 2 * count)[count:],
        lambda scores, count: oracle.best(scores, len(scores)),
    ],
    ids=["the worst", "the next best", "all"],
)
def test_other_rows_are_another_answer(choose: oracle.Choose, checkpoint_of: CheckpointOf) -> None:
    """The oracle can tell: the same model without other rows says something else."""
    row = next(row for row in ROWS if row.model_type == "llava")
    case, model = Case(row, checkpoint_of, False), oracle.load(checkpoint_of(row))
    chosen = {"cuts": [(LAYER, 0.25)], "tokens": TOKENS}
    right = oracle.answer(model, case.inputs, case.visual, **chosen)
    wrong = oracle.answer(model, case.inputs, case.visual, **chosen, choose=choose)
    assert (wrong.logits - right.logits).abs().max() > 1e-2
    assert wrong.tokens != right.tokens


@torch.no_grad()
def test_a_placeholder_that_is_said_is_text(checkpoint_of: CheckpointOf) -> None:
    """As it is to transformers' own `generate`."""
    row = next(row for row in ROWS if row.model_type == "llava")
    case, model = Case(row, checkpoint_of, False), oracle.load(checkpoint_of(row))
    chosen = {"cuts": [(LAYER, 1.0)], "tokens": TOKENS}
    said = oracle.answer(model, case.inputs, case.visual, **chosen).tokens[3]
    # The token that is said there, a little louder.
    model.lm_head.weight[model.config.image_token_id] = 1.01 * model.lm_head.weight[said]
    answer = oracle.answer(model, case.inputs, case.visual, **chosen)
    assert model.config.image_token_id in answer.tokens[:-1]
    stop = {"eos_token_id": None, "pad_token_id": 0}
    whole = model.generate(**case.inputs, max_new_tokens=TOKENS, do_sample=False, use_cache=True, **stop)
    assert answer.tokens == whole[0, -TOKENS:].tolist()
