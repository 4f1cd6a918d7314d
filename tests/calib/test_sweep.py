"""The sweep against transformers: the prompt, the greedy answer, and every plan's logits by the masked forward."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastv_calib.measurement.rankers import Seen, kept
from fastv_calib.measurement.sweep import Sweep
from fastv_calib.samples.inputs import InputMaker
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.rankers import RANKERS
from fastv_export.verify.choices import choose
from fastv_export.verify.reference import load_model, pruned
from fastv_runtime.config.lengths import kept_count
from tests.conftest import noise_image
from tests.export.test_rankers import kept as kept_by_graph
from tests.families.row import Row, noise_video, stock_inputs
from tests.families.rows import ROWS
from tests.tiny import write_tiny_llava

QUESTION = "Where is the red circle?"
ANSWER = 6
LAYERS = (1, 2, 3)
BESIDE_FASTV = [name for name, ranker in RANKERS.items() if ranker.portable and name != "fastv"]
TOLERANCE = 1e-4
"""Of the largest logit: fp32 sums over other rows, in another order."""

LLAVA = Row("llava", write_tiny_llava, (((64, 48),), ((64, 48), (30, 70))))


@pytest.mark.parametrize("row", [LLAVA, *ROWS], ids=lambda row: "two_images" if row is LLAVA else str(row))
def test_reruns_are_the_masked_forward(row: Row, tmp_path: Path) -> None:
    row.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES[row.model_type]
    stock, model = (load_model(checkpoint.path, family) for _ in range(2))
    stock.generation_config.eos_token_id = None
    maker = InputMaker(checkpoint, family, model, row.options.get("image_tokens"))
    sweep = Sweep(family.decoder(model), family.head(model), LAYERS, pre_rope=True)
    sizes = next(
        sizes for sizes, frames in reversed([*zip(row.cases, row.videos or [0] * 9, strict=False)]) if not frames
    )
    images = [noise_image(index, size) for index, size in enumerate(sizes)]
    given = row.inputs(checkpoint.path, images, QUESTION)

    inputs = maker(images, QUESTION)
    dense = sweep.dense(inputs, frozenset(), ANSWER)

    visual = given["input_ids"][0] == family.image_token_id(family.config(checkpoint))
    assert torch.equal(inputs.visual, visual)
    with torch.no_grad():
        answer = stock.generate(**given, max_new_tokens=ANSWER, do_sample=False)[0, visual.numel() :]
    assert dense.tokens == answer.tolist()
    forced = _with_answer(given, answer[:-1])
    with torch.no_grad():
        _close(dense.logits, stock(**forced).logits[0, -ANSWER:])
    count = int(visual.sum())
    decoder, length = family.decoder(stock), inputs.visual.numel() - count + kept_count(count, 0.5)
    for name, layer in [*product(["fastv"], LAYERS), *product(BESIDE_FASTV, [2])]:
        rotary, chosen = RANKERS[name].rotary, partial(choose, name, prunable=visual, length=length)
        with torch.no_grad(), pruned(decoder, layer, visual, length, rotary=rotary, choose=chosen) as pruning:
            expected = stock(**forced).logits[0, -ANSWER:]
        seen = dense.seen(layer)
        assert seen.pre_rope is not None
        _close(seen.scores if rotary else seen.pre_rope, pruning.scores)
        assert torch.equal(kept(name, seen, length), pruning.keep)
        # Beside another plan, which must not change it.
        keeps = torch.stack([kept("random", seen, length), pruning.keep])
        _close(sweep.pruned(dense, layer, keeps)[1], expected)
    again = sweep.forced(inputs, dense, 2).seen(2)
    assert again.pre_rope is not None
    for ours, theirs in zip(
        (again.scores, again.pre_rope, again.hidden), (seen.scores, seen.pre_rope, seen.hidden), strict=True
    ):
        _close(ours, theirs)


@pytest.mark.parametrize("name", ["video_llava", "llava_onevision", "qwen3_vl"])
def test_a_video_is_what_the_stock_model_sees(name: str, tmp_path: Path) -> None:
    """A tower of its own for frames; pooled frames; time steps told apart by text, with deepstack."""
    row = next(row for row in ROWS if str(row) == name)
    row.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES[row.model_type]
    stock, model = (load_model(checkpoint.path, family) for _ in range(2))
    stock.generation_config.eos_token_id = None
    sizes, frames = next((sizes, frames) for sizes, frames in zip(row.cases, row.videos, strict=False) if frames)
    video = noise_video(1, sizes[0], frames)
    assert row.video_inputs is not None
    given = row.video_inputs(checkpoint.path, video, QUESTION)

    inputs = InputMaker(checkpoint, family, model)([], QUESTION, [video])
    dense = Sweep(family.decoder(model), family.head(model), (2,)).dense(inputs, frozenset(), ANSWER)

    visual = given["input_ids"][0] == family.video_token_id(family.config(checkpoint))
    assert torch.equal(inputs.visual, visual)
    with torch.no_grad():
        answer = stock.generate(
            **given, max_new_tokens=ANSWER, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    assert dense.tokens == answer.sequences[0, visual.numel() :].tolist()
    _close(dense.logits, torch.cat(answer.logits))


def test_attention_by_layer_is_that_of_the_stock_model(tiny_llava: Path) -> None:
    family, image = FAMILIES["llava"], noise_image(0)
    model = load_model(tiny_llava, family)
    inputs = InputMaker(Checkpoint(tiny_llava), family, model)([image], QUESTION)
    shares = Sweep(family.decoder(model), family.head(model), (2,)).dense(inputs, frozenset(), 2).attention()
    with torch.no_grad():
        stock = model(**stock_inputs(tiny_llava, [image], QUESTION), output_attentions=True)
    expected = [float(weights[0, :, -1][:, inputs.visual].sum(-1).mean()) for weights in stock.attentions]
    np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_random_is_its_select_graph() -> None:
    count, length = 200, 90
    scores = torch.rand(count, generator=torch.Generator().manual_seed(3))
    visual, hidden = torch.arange(count) % 5 > 0, torch.zeros(count, 6)
    graph = kept_by_graph("random", hidden.numpy(), scores.numpy(), visual.numpy(), length)
    ours = kept("random", Seen(scores, None, hidden, visual), length).tolist()
    # The sine of a large angle differs in its last bits from one library to another, and that may swap a token.
    assert len(ours) == length and len(set(ours) ^ set(graph)) <= 4


def _with_answer(given: dict[str, Any], answer: torch.Tensor) -> dict[str, Any]:
    forced = {**given, "input_ids": torch.cat([given["input_ids"], answer[None]], 1)}
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in given:
            forced[name] = torch.cat([given[name], torch.full_like(answer[None], fill)], 1)
    return forced


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    expected = theirs.numpy()
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(expected).max())))
