"""Each ranker from export to answer, against transformers masked by the same choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from fastv_export.families import FAMILIES
from fastv_export.rankers import RANKERS as ALL
from fastv_export.rankers.base import Seen
from fastv_export.verify.choices import choose as defined
from fastv_export.verify.reference import ReferenceCut, load_model, pruned_by
from fastv_runtime import Bundle, Pipeline
from fastv_runtime.config.bundle import END_TO_END
from fastv_runtime.verification.golden import read_golden
from tests.conftest import MakeBundle, noise_image

QUESTION = "What color is the circle?"
NEW_TOKENS = 16
RANKERS = [
    name for name, ranker in ALL.items() if ranker.portable and name != "fastv" and "change" not in ranker.signals
]
"""The parity tests have `fastv`; what depends on the engine cannot be compared token by token; and this model takes no
videos."""

pytestmark = pytest.mark.xdist_group("rankers")  # the last test looks at bundles of the others


@pytest.mark.parametrize("ranker", RANKERS)
def test_an_answer_is_that_of_transformers(tiny_llava: Path, make_bundle: MakeBundle, ranker: str) -> None:
    bundle = make_bundle(tiny_llava, ranker=ranker, max_text=64, max_new_tokens=NEW_TOKENS)
    pipeline = Pipeline.load(bundle, threads=1)
    assert set(pipeline.bundle.manifest.verified or {}) == {"vision", "prefix", "select", "suffix", END_TO_END}
    answer = pipeline.stream([noise_image(3)], QUESTION, max_new_tokens=NEW_TOKENS, keep=0.25, ignore_stop=True)
    for _ in answer:
        pass

    model = load_model(tiny_llava, FAMILIES["llava"])
    model.generation_config.eos_token_id = None
    processor = AutoProcessor.from_pretrained(tiny_llava, local_files_only=True)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[noise_image(3)], text=text, return_tensors="pt", add_special_tokens=False)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    length = int((~visual).sum()) + round(int(visual.sum()) * 0.25)

    def choose(seen: Seen) -> torch.Tensor:
        return defined(ranker, seen, length)

    cut = ReferenceCut(2, length, ALL[ranker].signals, rotary=ALL[ranker].rotary, choose=choose)
    with torch.no_grad(), pruned_by(model.get_decoder(), visual, [cut]) as (pruning,):
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    order = torch.cumsum(visual, 0) - 1
    assert answer.answer.kept_visual_tokens == order[pruning.keep[visual[pruning.keep]]].tolist()
    assert answer.answer.token_ids == output[0, visual.numel() :].tolist()


def test_rankers_choose_differently(tiny_llava: Path, make_bundle: MakeBundle) -> None:
    """Otherwise answers above would agree whatever the ranker."""
    kept = []
    for ranker in RANKERS:
        bundle = make_bundle(tiny_llava, ranker=ranker, max_text=64, max_new_tokens=NEW_TOKENS)
        generation = Pipeline.load(bundle, threads=1).stream([noise_image(3)], QUESTION, max_new_tokens=1, keep=0.25)
        kept.append(tuple(generation.answer.kept_visual_tokens))
    assert len(set(kept)) == len(kept)
    assert all(len(set(each)) == np.size(each) == 36 for each in kept)


def test_a_ranker_that_engines_compute_differently_has_no_golden_case(
    tiny_llava: Path, make_bundle: MakeBundle
) -> None:
    (ranker,) = (name for name, ranker in ALL.items() if not ranker.portable)
    bundle = Bundle.open(make_bundle(tiny_llava, ranker=ranker, max_text=64, max_new_tokens=NEW_TOKENS))
    assert set(bundle.manifest.verified or {}) == {"vision", "prefix", "suffix", END_TO_END}
    assert {name.split("/")[0] for name in read_golden(bundle)} == {"vision", "prefix", "suffix"}
