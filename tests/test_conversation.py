"""Conversations beside transformers: each turn's answer is that to all that was said and shown, computed anew.

The witness is `tests/oracle.py`: the stock model and its processor, given the whole conversation, rows taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from fastv_export.plan import CutOption
from fastv_runtime import Answer, Pipeline
from tests import oracle
from tests.conftest import MakeBundle, noise_image

NEW = 8
TURNS = (
    ("What color is the circle?", [noise_image(0)]),
    ("Where is it?", []),
    ("And in this one?", [noise_image(1, (80, 40))]),
    ("How many are there?", []),
    ("Why?", []),
)
CUTS = {"one": [(2, 0.5)], "two": [(1, 0.5), (3, 0.2)]}


@pytest.fixture(scope="module", params=CUTS)
def cuts(request: pytest.FixtureRequest) -> list[tuple[int, float]]:
    return CUTS[request.param]


@pytest.fixture(scope="module")
def pipeline(tiny_llava: Path, make_bundle: MakeBundle, cuts: list[tuple[int, float]]) -> Iterator[Pipeline]:
    bundle = make_bundle(
        tiny_llava,
        cuts=tuple(CutOption(*cut) for cut in cuts),
        max_images=2,
        max_text=320,
        max_new_tokens=16,
        verify=False,
    )
    with Pipeline.load(bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def stock(tiny_llava: Path) -> tuple[Any, Any]:
    return oracle.load(tiny_llava), AutoProcessor.from_pretrained(tiny_llava, local_files_only=True)


def expected(stock: tuple[Any, Any], said: list[dict[str, Any]], images: list[Any], cuts: Any) -> oracle.Answer:
    """What the stock model says to a whole conversation."""
    model, processor = stock
    text = processor.apply_chat_template(said, add_generation_prompt=True)
    inputs = processor(images=images, text=text, return_tensors="pt", add_special_tokens=False)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    return oracle.answer(model, dict(inputs), visual, cuts=cuts, tokens=NEW)


def test_five_turns_with_two_images_are_what_transformers_says(
    pipeline: Pipeline, stock: tuple[Any, Any], cuts: list[tuple[int, float]]
) -> None:
    chat = pipeline.chat(max_new_tokens=NEW, length="exact")
    said: list[dict[str, Any]] = []
    images: list[Any] = []
    before: Answer | None = None
    for question, shown in TURNS:
        answer = chat.ask(question, shown)
        images += shown
        said.append(
            {"role": "user", "content": [{"type": "image"}] * len(shown) + [{"type": "text", "text": question}]}
        )
        wanted = expected(stock, said, images, cuts)
        length = len(answer.token_ids)  # a stop token may end it early
        assert (answer.kept_visual_tokens, answer.token_ids) == (wanted.kept, wanted.tokens[:length])
        assert length == NEW or answer.finish_reason == "stop"
        if before is None:
            assert answer.reused_tokens == 0
        else:
            # All that was shown and said before; the end of a prompt may be other tokens once an answer follows.
            assert before.prompt_tokens - 16 <= answer.reused_tokens <= before.prompt_tokens
            assert answer.reused_tokens > before.visual_tokens
        before = answer
        said.append({"role": "assistant", "content": [{"type": "text", "text": answer.text.strip()}]})
