"""Turns that go on where the turn before ended, beside the whole conversation read anew, in families whose prompts are
more than rows of text: M-RoPE's positions, deepstack, videos, and cuts whose rankers read what only some graphs make.

Prompts that are read anew are compared with transformers elsewhere: `test_cuts`, `test_rankers`, `test_ranker_chains`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastv_export.plan import CutOption
from fastv_runtime import Pipeline
from fastv_runtime.generation.calls.question import read_question
from fastv_runtime.generation.calls.settings import read_settings
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.model import Model
from fastv_runtime.generation.slot import Slot
from tests.conftest import MakeBundle, noise_image
from tests.families.conftest import CheckpointOf
from tests.families.row import noise_video
from tests.families.rows import ROWS

NEW = 6
CUTS = {
    # Every form of what a cut reads: of each row, of the last one, of the last eight, and of a video's frames.
    "qwen3_vl": ((1, 0.7, "frame-change"), (2, 0.5, "text-rows"), (4, 0.3, "knorm")),
    # Keys without rotary embedding are in no cache: behind such a cut all is run again, before it too.
    "llava": ((2, 0.5, "fastv"), (4, 0.3, "pre-rope")),
    "llava_onevision": (),
}


ON_OPENVINO = " on openvino"
"""Which keeps caches itself."""


@pytest.fixture(scope="module", params=[*CUTS, *(f"{name}{ON_OPENVINO}" for name in CUTS)])
def pipeline(
    request: pytest.FixtureRequest, checkpoint_of: CheckpointOf, make_bundle: MakeBundle
) -> Iterator[Pipeline]:
    name = request.param.removesuffix(ON_OPENVINO)
    row = next(row for row in ROWS if str(row) == name)
    cuts = CUTS[name]
    options = row.options | {"max_text": 320, "max_new_tokens": 16, "max_images": 3}
    options.pop("max_visual", None)
    bundle = make_bundle(
        checkpoint_of(row),
        prune=bool(cuts),
        **({"cuts": tuple(CutOption(*cut) for cut in cuts)} if cuts else {"layer": None, "keep": None}),
        **options,
        verify=False,
        target="ort" if name == request.param else "openvino",
        precision="float32",
    )
    with Pipeline.load(bundle, threads=1) as loaded:
        yield loaded


def test_turns_are_what_the_whole_conversation_says(pipeline: Pipeline) -> None:
    chat = pipeline.chat(max_new_tokens=NEW)
    videos = pipeline.bundle.manifest.family == "qwen3_vl"
    turns: list[tuple[str, dict[str, Any]]] = [
        ("What is it?", {"images": noise_image(0)}),
        ("Why?", {}),
        ("And this?", {"videos": noise_video(1, (64, 64), 4)} if videos else {"images": noise_image(1, (96, 48))}),
        ("Which of the two is larger?", {}),
    ]
    reused = []
    for question, shown in turns:
        generation = chat.stream(question, **shown)
        logits = pipeline.logits.copy()
        for _ in generation:
            pass
        answer = generation.answer
        said = [*chat.messages[:-1]]
        whole = pipeline.stream(messages=said, max_new_tokens=NEW)
        np.testing.assert_allclose(pipeline.logits, logits, rtol=0, atol=1e-3 * max(1, float(np.abs(logits).max())))
        for _ in whole:
            pass
        assert whole.answer.reused_tokens == 0
        assert answer.token_ids == whole.answer.token_ids
        assert [each.kept_visual_tokens for each in answer.cuts] == [
            each.kept_visual_tokens for each in whole.answer.cuts
        ]
        reused.append(answer.reused_tokens)
    assert reused[0] == 0
    # Between two turns the whole conversation was read anew, answered and all: it ends where the next turn begins.
    assert all(tokens > 0 for tokens in reused[1:])


def test_a_conversation_goes_on_in_another_slot(pipeline: Pipeline) -> None:
    model = Model(pipeline.bundle, threads=1, features=1 << 24)
    settings = read_settings(model.manifest, max_new_tokens=NEW, reuse=True)

    def ask(slot: Slot, messages: list[dict[str, Any]]) -> Any:
        clock = Clock()
        prepared = model.prepare(read_question(None, messages, None, [], []), clock)
        loop = slot.start(prepared, settings, clock)
        while not loop.answer.finish_reason:
            loop.advance()
        return loop.answer

    def asked(*parts: Any) -> dict[str, Any]:
        images = [{"type": "image", "image": each} for each in parts[1:]]
        return {"role": "user", "content": [*images, {"type": "text", "text": parts[0]}]}

    one, other = Slot(model), Slot(model)
    begun = [asked("What is it?", noise_image(0))]
    first = ask(one, begun)
    begun += [{"role": "assistant", "content": first.text.strip() or "nothing"}, asked("Why?")]
    saved = one.save()
    assert saved is not None
    assert saved.nbytes > 0
    expected = ask(one, begun)
    assert expected.reused_tokens > 0
    ask(other, [asked("Something else", noise_image(1))])
    misses = model.features.misses
    other.restore(saved)
    again = ask(other, begun)
    assert (again.token_ids, again.cuts, again.reused_tokens) == (
        expected.token_ids,
        expected.cuts,
        expected.reused_tokens,
    )
    # Without its caches, the image is still encoded once: its features are kept.
    anew = ask(Slot(model), begun)
    assert (anew.token_ids, anew.reused_tokens, model.features.misses) == (expected.token_ids, 0, misses)
    assert model.features.hits > 0
