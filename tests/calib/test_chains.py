"""Chains of cuts against transformers: every plan's logits and kept tokens by the masked forward."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fastv_calib.measurement.chains import following
from fastv_calib.measurement.quantized import QuantizedModel
from fastv_calib.measurement.sweep import Sweep
from fastv_calib.samples.inputs import InputMaker
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.points import Chain, PointCut, said
from fastv_export.quantization.presets import FEW_BITS
from fastv_export.rankers import RANKERS
from fastv_export.rankers.parts.needs import crowded
from fastv_export.verify.choices import choose
from fastv_export.verify.reference import Pruning, ReferenceCut, load_model, pruned_by
from fastv_runtime.config.lengths import kept_count
from tests.calib.test_sweep import ANSWER, LLAVA, QUESTION, close, with_answer
from tests.conftest import noise_image
from tests.families.row import Row
from tests.families.rows import ROWS

EXACT = [name for name, ranker in RANKERS.items() if ranker.portable and "change" not in ranker.signals]
ROUNDED = 0.02
"""Of the largest logit: a state between two bytes may fall to either, as sums go."""


def chain(text: str) -> Chain:
    cuts = [each.split(":") for each in text.split(" ")]
    return tuple(PointCut(layer=int(layer), keep=float(keep), ranker=ranker) for layer, keep, ranker in cuts)


CHAINS = [
    chain("1:0.6:fastv 3:0.2:fastv"),
    chain("1:0.6:fastv"),  # a whole plan that others begin with
    chain("1:0.6:fastv 2:0.4:dart 3:0.2:fastv"),
    chain("1:0.6:dart 3:0.2:fastv+uniform"),
    chain("2:0.5:pre-rope 3:0.1:pre-rope"),
    chain("1:0.8:fastv 2:0.4:fastv 3:0.1:fastv"),
    *(chain(f"1:0.7:fastv 3:0.3:{name}") for name in EXACT if name != "fastv"),
]
CHAINS = [each for each in CHAINS if crowded((cut.layer, cut.ranker) for cut in each) is None]
MODELS = [LLAVA, *(row for row in ROWS if str(row) in ("qwen2_vl", "qwen3_vl"))]


@pytest.mark.parametrize("row", MODELS, ids=["llava", "m-rope", "m-rope and deepstack"])
def test_chains_are_the_masked_forward(row: Row, tmp_path: Path) -> None:
    row.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES[row.model_type]
    stock, model = (load_model(checkpoint.path, family) for _ in range(2))
    images = [noise_image(index, size) for index, size in enumerate(row.cases[0])]
    inputs = InputMaker(checkpoint, family, model, row.options.get("image_tokens"))(images, QUESTION)
    sweep = Sweep(family.decoder(model), family.head(model), following((), CHAINS))
    dense = sweep.dense(inputs, frozenset(), ANSWER)
    forced = with_answer(row.inputs(checkpoint.path, images, QUESTION), torch.tensor(dense.tokens[:-1]))
    changed = 0
    # From what the unpruned pass saw, and run from the first layer on: the same.
    for answered in (dense, sweep.begun(inputs, dense.tokens)):
        for plan, found in zip(CHAINS, sweep.chains(answered, CHAINS), strict=True):
            expected, prunings = masked(stock, family.decoder(stock), inputs.visual, plan, forced)
            assert found.rows.tolist() == prunings[-1].keep.tolist(), said(plan)
            close(found.logits, expected[-ANSWER:])
            changed += found.logits.argmax(-1).tolist() != dense.tokens
    assert changed, "pruning must change an answer sometimes, or this tests nothing"


def test_rounded_chains_are_the_masked_forward_of_the_rounded_model(tmp_path: Path) -> None:
    LLAVA.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES["llava"]
    model = load_model(checkpoint.path, family)
    images = [noise_image(0)]
    maker = InputMaker(checkpoint, family, model)
    sweep = Sweep(family.decoder(model), family.head(model), {})
    tokens = [5, 6, 7, 8]
    forced = with_answer(LLAVA.inputs(checkpoint.path, images, QUESTION), torch.tensor(tokens[:-1]))
    rounded = QuantizedModel(model, family, {})
    plan = chain("1:0.6:fastv 3:0.2:fastv")
    for layers in ((1, 3), (1, 2)):  # parts before the last cut keep their bits
        with rounded(FEW_BITS["int8"], layers):
            inputs = maker(images, QUESTION)
            (found,) = sweep.chains(sweep.begun(inputs, tokens), [plan])
            expected, prunings = masked(model, family.decoder(model), inputs.visual, plan, forced)
        assert found.rows.tolist() == prunings[-1].keep.tolist()
        assert float((found.logits - expected[-4:]).abs().max()) < ROUNDED * float(expected.abs().max())


def test_a_chain_without_cuts_is_the_unpruned_model(tmp_path: Path) -> None:
    LLAVA.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES["llava"]
    model = load_model(checkpoint.path, family)
    inputs = InputMaker(checkpoint, family, model)([noise_image(0)], QUESTION)
    sweep = Sweep(family.decoder(model), family.head(model), {2: {"fastv"}})
    dense = sweep.dense(inputs, frozenset(), ANSWER)
    whole, pruned = sweep.chains(dense, [(), chain("2:0.1:fastv")])
    close(whole.logits, dense.logits)
    assert pruned.rows.numel() == inputs.visual.numel() - 144 + 14
    with pytest.raises(AssertionError):
        close(pruned.logits, dense.logits)


def masked(
    model: Any, decoder: Any, visual: torch.Tensor, plan: Chain, forced: dict[str, Any]
) -> tuple[torch.Tensor, list[Pruning]]:
    """Logits of the stock forward with dropped tokens masked."""
    count = int(visual.sum())
    cuts = []
    for cut in plan:
        length, ranker = visual.numel() - count + kept_count(count, cut.keep), RANKERS[cut.ranker]
        chosen = partial(choose, cut.ranker, length=length)
        cuts.append(ReferenceCut(cut.layer, length, signals=ranker.signals, rotary=ranker.rotary, choose=chosen))
    with torch.no_grad(), pruned_by(decoder, visual, cuts) as prunings:
        return model(**forced).logits[0], prunings
