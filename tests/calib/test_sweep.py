"""The sweep against transformers: the prompt, the greedy answer, and every plan's logits by the masked forward."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastv_calib.measurement.chains import following
from fastv_calib.measurement.rankers import SeenByAll, kept
from fastv_calib.measurement.sweep import Sweep
from fastv_calib.samples.inputs import InputMaker
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.points import PointCut
from fastv_export.rankers import RANKERS
from fastv_export.verify.choices import choose
from fastv_export.verify.reference import ReferenceCut, load_model, pruned_by
from fastv_runtime.config.lengths import kept_count
from tests.conftest import noise_image
from tests.families.row import Row, noise_video, stock_inputs
from tests.families.rows import ROWS
from tests.tiny import write_tiny_llava

QUESTION = "Where is the red circle?"
ANSWER = 6
LAYERS = (1, 2, 3)
STILL = [name for name, ranker in RANKERS.items() if "change" not in ranker.signals]
PLANS = [
    (PointCut(layer=layer, keep=0.5, ranker=name),)
    for name, layer in [*product(["fastv"], LAYERS), *product([name for name in STILL if name != "fastv"], [2])]
]
FRAME = {"video_llava": 17, "llava_onevision": 9, "qwen3_vl": 12}
"""Visual tokens of a frame, or of the frames of a time step, in the videos below."""
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
    sweep = Sweep(family.decoder(model), family.head(model), following((), PLANS))
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
    forced = with_answer(given, answer[:-1])
    with torch.no_grad():
        close(dense.logits, stock(**forced).logits[0, -ANSWER:])
    count = int(visual.sum())
    decoder, length = family.decoder(stock), inputs.visual.numel() - count + kept_count(count, 0.5)
    pruned_by_each = dict(zip(PLANS, sweep.chains(dense, PLANS), strict=True))
    for plan in PLANS:
        ((layer, name),) = [(cut.layer, cut.ranker) for cut in plan]
        if not RANKERS[name].portable:
            continue  # beside others, which it must not change
        cut = ReferenceCut(
            layer,
            length,
            signals=RANKERS[name].signals,
            rotary=RANKERS[name].rotary,
            choose=partial(choose, name, length=length),
        )
        with torch.no_grad(), pruned_by(decoder, visual, [cut]) as (pruning,):
            expected = stock(**forced).logits[0, -ANSWER:]
        seen = dense.arrived[layer].seen
        assert seen is not None
        for signal, theirs in pruning.signals.items():
            close((seen.signals if RANKERS[name].rotary else seen.unrotated)[signal], theirs)
        assert torch.equal(kept(name, seen, length), pruning.keep)
        assert torch.equal(pruned_by_each[plan].rows, pruning.keep)
        close(pruned_by_each[plan].logits, expected)


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
    assert inputs.change is not None and not inputs.change[~inputs.visual].any()
    new = inputs.change[inputs.visual]
    steps = len(new) // FRAME[name]
    features = inputs.embedded[0, inputs.visual][: steps * FRAME[name]].unflatten(0, (steps, FRAME[name]))
    close(new[: FRAME[name]], torch.ones(FRAME[name]))
    likeness = torch.cosine_similarity(features[1:], features[:-1], dim=-1).flatten()
    close(new[FRAME[name] : steps * FRAME[name]], 1 - likeness)
    dense = Sweep(family.decoder(model), family.head(model), {}).dense(inputs, frozenset(), ANSWER)

    visual = given["input_ids"][0] == family.video_token_id(family.config(checkpoint))
    assert torch.equal(inputs.visual, visual)
    with torch.no_grad():
        answer = stock.generate(
            **given, max_new_tokens=ANSWER, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    assert dense.tokens == answer.sequences[0, visual.numel() :].tolist()
    close(dense.logits, torch.cat(answer.logits))


def test_attention_by_layer_is_that_of_the_stock_model(tiny_llava: Path) -> None:
    family, image = FAMILIES["llava"], noise_image(0)
    model = load_model(tiny_llava, family)
    inputs = InputMaker(Checkpoint(tiny_llava), family, model)([image], QUESTION)
    shares = Sweep(family.decoder(model), family.head(model), {}).dense(inputs, frozenset(), 2).attention
    with torch.no_grad():
        stock = model(**stock_inputs(tiny_llava, [image], QUESTION), output_attentions=True)
    expected = [float(weights[0, :, -1][:, inputs.visual].sum(-1).mean()) for weights in stock.attentions]
    np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_random_is_its_select_graph() -> None:
    from tests.export.test_rankers import Given
    from tests.export.test_rankers import kept as kept_by_graph

    count, length = 200, 90
    scores = torch.rand(count, generator=torch.Generator().manual_seed(3))
    visual, hidden = torch.arange(count) % 5 > 0, torch.zeros(count, 6)
    given = Given(hidden.numpy(), {"scores": scores.numpy()}, visual.numpy(), length)
    graph = kept_by_graph("random", given)
    ours = kept("random", SeenByAll({"scores": scores}, {}, hidden, visual), length).tolist()
    # The sine of a large angle differs in its last bits from one library to another, and that may swap a token.
    assert len(ours) == length and len(set(ours) ^ set(graph)) <= 4


def with_answer(given: dict[str, Any], answer: torch.Tensor) -> dict[str, Any]:
    forced = {**given, "input_ids": torch.cat([given["input_ids"], answer[None]], 1)}
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in given:
            forced[name] = torch.cat([given[name], torch.full_like(answer[None], fill)], 1)
    return forced


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    expected = theirs.numpy()
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))
