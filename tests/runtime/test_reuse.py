"""What a turn of a conversation leaves in caches, beside the whole conversation read anew: the same in every row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastv_export.plan import CutOption
from fastv_runtime import Pipeline
from fastv_runtime.config.cuts import Cut
from fastv_runtime.config.plan import Stage
from fastv_runtime.generation.decoding.reuse import first_to_run, same_rows, standing_rows, unchanged_rows
from tests.conftest import MakeBundle, noise_image
from tests.tiny import write_tiny_llava

QUESTIONS = ("What is it?", "Where is the circle?", "Why?", "How many are there of them?")
CLOSE = 1e-4
"""Of the largest value: fp32 sums of other shapes differ by less, a row that went stale by more."""


@pytest.fixture(scope="module", params=["ort", "openvino"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle
) -> tuple[Pipeline, Pipeline]:
    """One bundle of three cuts and many layers, loaded twice: for the conversation, and for what is read anew."""
    source = write_tiny_llava(tmp_path_factory.mktemp("reuse") / "eight-layers", layers=8)
    bundle = make_bundle(
        source,
        cuts=(CutOption(2, 0.5), CutOption(4, 0.3), CutOption(6, 0.1)),
        max_images=2,
        max_text=320,
        max_new_tokens=8,
        verify=False,
        target=request.param,
        precision="float32",
    )
    return Pipeline.load(bundle, threads=1), Pipeline.load(bundle, threads=1)


def assert_same_caches(chatting: Pipeline, anew: Pipeline) -> None:
    ours, theirs = chatting._slot.decoder, anew._slot.decoder
    for one, other in zip(ours._given, theirs._given, strict=True):  # type: ignore[attr-defined]
        np.testing.assert_array_equal(one, other)
    for stage, (one, other) in enumerate(zip(ours.save().caches, theirs.save().caches, strict=True)):
        for kept, fresh in zip(one, other, strict=True):
            np.testing.assert_allclose(
                kept, fresh, rtol=0, atol=CLOSE * float(np.abs(fresh).max()), err_msg=f"stage {stage}"
            )
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=CLOSE * float(np.abs(theirs.logits).max()))


@pytest.mark.parametrize("seed", range(8))
def test_every_cache_is_that_of_the_whole_conversation(pair: tuple[Pipeline, Pipeline], seed: int) -> None:
    chatting, anew = pair
    random = np.random.default_rng(seed)
    chat = chatting.chat(max_new_tokens=4, keep="auto" if seed % 2 else None)
    for turn in range(4):
        shown = [noise_image(10 * seed + turn)] if turn in (0, 2) else []
        before = chat.messages
        generation = chat.stream(str(random.choice(QUESTIONS)), shown)
        assert chat._waiting is not None
        whole = anew.stream(messages=[*before, chat._waiting[0]], max_new_tokens=4, keep="auto" if seed % 2 else None)
        assert_same_caches(chatting, anew)
        for _ in generation:
            pass
        for _ in whole:
            pass
        assert generation.answer.token_ids == whole.answer.token_ids


def stage(index: int, stages: int) -> Stage:
    cut = Cut(layer=2, keep=0.5, ranker="fastv") if index < stages - 1 else None
    return Stage(index, f"stage {index}", "M", 0, None, cut, None)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Rows that three stages were given, and are given now, of prompts that begin with `common` tokens alike."""

    def chain(length: int) -> list[np.ndarray]:
        rows = [np.arange(length)]
        for _ in range(2):
            stays = np.asarray(draw(st.lists(st.booleans(), min_size=rows[-1].size, max_size=rows[-1].size)), bool)
            stays[-1] = True
            rows.append(rows[-1][stays])
        return rows

    before, now = draw(st.integers(12, 24)), draw(st.integers(12, 28))
    return chain(before), chain(now), draw(st.integers(0, min(before, now - 1)))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(prompts())
def test_no_row_is_reused_that_any_stage_before_has_changed(
    case: tuple[list[np.ndarray], list[np.ndarray], int],
) -> None:
    """By what each state depends on: the rows that every stage so far saw before it."""
    before, now, common = case

    def made_of(rows: list[np.ndarray], index: int, row: int, tokens: str) -> list[list[str]]:
        seen = [each[each <= row] for each in rows[: index + 1]]
        return [[f"{tokens if each >= common else ''}{each}" for each in some] for some in seen]

    unchanged = common
    for index in range(3):
        held = before[index][before[index] < unchanged]
        same = same_rows(now[index], held) if index else min(common, now[0].size)
        first = first_to_run(stage(index, 3), same, before[index].size, now[index].size)
        for place in range(first):
            row = int(now[index][place])
            assert before[index][place] == row
            assert made_of(before, index, row, "old") == made_of(now, index, row, "new")
        if index:
            unchanged = unchanged_rows(now[index], same, unchanged)


def test_what_stands_is_what_was_kept_and_the_new_text() -> None:
    prunable = np.asarray([0, 1, 1, 1, 1, 0, 0, 0], bool)
    chosen, came = np.asarray([0, 2, 3, 5, 6, 7]), np.arange(8)
    held = np.asarray([0, 1, 2, 5, 6])
    np.testing.assert_array_equal(standing_rows(chosen, came, held, prunable, 0.5), [0, 1, 2, 5, 6, 7])
    assert standing_rows(chosen, came, held, prunable, 0.6) is None, "one of two"
    shown = prunable.copy()
    shown[7] = True
    assert standing_rows(chosen, came, held, shown, 0) is None, "something new is shown"
    assert standing_rows(chosen, chosen, held, prunable, 0) is None, "what was kept did not come"
