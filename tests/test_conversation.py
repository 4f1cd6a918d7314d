"""Conversations beside transformers: each turn's answer is that to all that was said and shown, computed anew.

The witness is `tests/oracle.py`: the stock model and its processor, given the whole conversation, rows taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from fastv_export.plan import CutOption
from fastv_runtime import Answer, Pipeline, PipelineEndedError, UserError
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
BEGIN, END = 12, 16
"""Tokens, at most, with which every prompt begins, and at a prompt's end that are others once an answer follows."""
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


def asked(question: str, shown: list[Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}] * len(shown) + [{"type": "text", "text": question}]}


def replied(answer: Answer) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": answer.text.strip()}]}


def expected(
    stock: tuple[Any, Any],
    said: list[dict[str, Any]],
    images: list[Any],
    cuts: list[tuple[int, float]],
    choose: oracle.Choose = oracle.best,
) -> oracle.Answer:
    """What the stock model says to a whole conversation."""
    model, processor = stock
    text = processor.apply_chat_template(said, add_generation_prompt=True)
    inputs = processor(images=images, text=text, return_tensors="pt", add_special_tokens=False)
    visual = inputs["input_ids"][0] == model.config.image_token_id
    return oracle.answer(model, dict(inputs), visual, cuts=cuts, tokens=NEW, choose=choose)


@pytest.mark.parametrize("between", [False, True], ids=["alone", "others between"])
def test_five_turns_with_two_images_are_what_transformers_says(
    pipeline: Pipeline, stock: tuple[Any, Any], cuts: list[tuple[int, float]], between: bool
) -> None:
    chat = pipeline.chat(max_new_tokens=NEW, length="exact")
    said: list[dict[str, Any]] = []
    images: list[Any] = []
    before: Answer | None = None
    for question, shown in TURNS:
        if between and question == "Why?":
            pipeline.generate(noise_image(5), "Something else?", max_new_tokens=3)
        answer = chat.ask(question, shown)
        images += shown
        said.append(asked(question, shown))
        wanted = expected(stock, said, images, cuts)
        length = len(answer.token_ids)  # a stop token may end it early
        assert (answer.kept_visual_tokens, answer.token_ids) == (wanted.kept, wanted.tokens[:length])
        assert length == NEW or answer.finish_reason == "stop"
        if between and question == "Why?":
            assert answer.reused_tokens <= BEGIN
        elif before is not None:
            assert before.prompt_tokens - END <= answer.reused_tokens <= before.prompt_tokens
            assert answer.reused_tokens > before.visual_tokens
        before = answer
        said.append(replied(answer))


def test_a_selection_that_stays_is_kept_and_only_the_new_turn_is_run(
    pipeline: Pipeline, stock: tuple[Any, Any], cuts: list[tuple[int, float]]
) -> None:
    chat = pipeline.chat(max_new_tokens=NEW, length="exact", stay=0)
    image = noise_image(3)
    first = chat.ask(TURNS[0][0], image)
    second = chat.ask(TURNS[1][0])
    assert [each.kept_visual_tokens for each in second.cuts] == [each.kept_visual_tokens for each in first.cuts]
    said = [asked(TURNS[0][0], [image]), replied(first), asked(TURNS[1][0], [])]
    kept = [each.kept_visual_tokens for each in first.cuts]
    # The oracle chooses among those that are left: places in the list of the cut before.
    places = [kept[0], *([before.index(each) for each in after] for before, after in pairwise(kept))]
    choices = iter(places)
    wanted = expected(stock, said, [image], cuts, choose=lambda scores, count: next(choices))
    assert wanted.kept == first.kept_visual_tokens
    assert second.token_ids == wanted.tokens[: len(second.token_ids)]
    new = second.prompt_tokens - first.prompt_tokens
    for cut in second.cuts:
        assert cut.pruned_length - cut.reused_length <= new + END
    # One that shows something new is cut anew, whatever is asked for.
    third = chat.ask("And now?", noise_image(4))
    again = pipeline.generate(
        [image, noise_image(4)],
        messages=[*said, replied(second), asked("And now?", [noise_image(4)])],
        max_new_tokens=NEW,
        length="exact",
    )
    assert (third.token_ids, third.cuts[-1].kept_visual_tokens) == (again.token_ids, again.cuts[-1].kept_visual_tokens)


def test_what_is_not_read_to_its_end_or_refused_leaves_no_trace(pipeline: Pipeline) -> None:
    chat = pipeline.chat(max_new_tokens=NEW, system="Be brief.")
    first = chat.ask("What is it?", noise_image(0))
    said = chat.messages
    assert [turn["role"] for turn in said] == ["system", "user", "assistant"]
    with chat.stream("And this?", noise_image(1)) as generation:
        next(generation)
    assert chat.messages == said
    with pytest.raises(UserError, match="supports at most"):
        chat.ask("And these?", [noise_image(seed) for seed in range(4)])
    with pytest.raises(UserError, match="the prompt is empty"):
        chat.ask(" ")
    assert chat.messages == said
    second = chat.ask("Why?")
    alone = pipeline.generate(
        noise_image(0),
        messages=[
            {"role": "system", "content": "Be brief."},
            asked("What is it?", [0]),
            replied(first),
            asked("Why?", []),
        ],
        max_new_tokens=NEW,
    )
    assert second.token_ids == alone.token_ids
    chat.clear()
    assert [turn["role"] for turn in chat.messages] == ["system"]
    assert chat.ask("What is it?", noise_image(0)).token_ids == first.token_ids


@pytest.mark.parametrize("stay", [-0.1, 1.1, True, "all", float("nan")])
def test_what_is_no_share_is_refused(pipeline: Pipeline, stay: Any) -> None:
    with pytest.raises(UserError, match=r"`stay` .*must be a number, 0 to 1"):
        pipeline.chat(stay=stay)


def test_what_happens_beside_a_question_loses_no_turn(pipeline: Pipeline, tmp_path: Path) -> None:
    chat = pipeline.chat(max_new_tokens=NEW)
    generation = chat.stream("What is it?", noise_image(0))
    next(generation)
    with pytest.raises(UserError, match="no such image"):
        chat.ask("And this?", tmp_path / "none.png")
    for _ in generation:
        pass
    assert [turn["role"] for turn in chat.messages] == ["user", "assistant"]
    chat.messages[0]["content"].clear()
    assert len(chat.messages[0]["content"]) == 2


def test_threads_wait_for_the_answer_of_a_chat(pipeline: Pipeline) -> None:
    chat = pipeline.chat(max_new_tokens=NEW)
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(chat.ask, "What is it?", noise_image(0))
        others = [pool.submit(pipeline.generate, noise_image(1), "Why?", max_new_tokens=2) for _ in range(3)]
        assert asked.result().finish_reason
        assert all(each.result().finish_reason for each in others)


def test_a_closed_pipeline_begins_no_chat(tiny_bundle: Path) -> None:
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        pass
    with pytest.raises(PipelineEndedError, match="was closed"):
        pipeline.chat()
