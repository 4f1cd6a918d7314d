"""Pruned lengths: pure arithmetic, checked over many plans."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.lengths import capacity, pruned_length, pruned_lengths
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError
from fastv_runtime.generation.notes import pruning_notes


def make_plan(*, layer: int | None = 2, keep: float = 0.5, **changes: object) -> Plan:
    settings = {
        "cuts": one_cut(layer, keep),
        "length": "exact",
        "precision": "float32",
        "max_text": 40,
        "max_visual": 600,
        "max_new_tokens": 8,
    }
    return Plan.model_validate(settings | changes)


plans = st.builds(
    lambda keep, text, visual, step: make_plan(keep=keep, max_text=text, max_visual=visual, text_step=min(step, text)),
    st.floats(0.01, 1),
    st.integers(1, 200),
    st.integers(600, 2400),
    st.integers(1, 200),
)
keeps = st.floats(0.01, 1)


@given(plans, st.integers(1, 200), st.integers(0, 2400), st.sampled_from(["fixed", "exact"]))
def test_a_pruned_length_fits_prompt_and_buffers(plan: Plan, text: int, visual: int, policy: str) -> None:
    needed = capacity(plan)
    try:
        pruned = pruned_length(plan, text, visual, policy, needed)
    except UserError:
        assert text > plan.max_text or visual > plan.max_visual
        return
    assert text <= pruned <= min(text + visual, needed.pruned)
    assert pruned + plan.max_new_tokens <= needed.keys[-1]


@given(plans, st.integers(1, 200), st.integers(1, 600))
def test_exact_keeps_what_the_paper_keeps(plan: Plan, text: int, visual: int) -> None:
    assume(text <= plan.max_text)
    assert pruned_length(plan, text, visual, "exact", capacity(plan)) == text + round(visual * plan.keep)


@given(plans, st.integers(1, 200), st.integers(0, 2400), keeps)
def test_fixed_keeps_less_than_a_step_beyond_keep(plan: Plan, text: int, visual: int, keep: float) -> None:
    needed = capacity(plan)
    try:
        exact = pruned_length(plan, text, visual, "exact", needed, keep)
    except UserError:
        with pytest.raises(UserError):
            pruned_length(plan, text, visual, "fixed", needed, keep)
        return
    pruned = pruned_length(plan, text, visual, "fixed", needed, keep)
    assert exact <= pruned < exact + plan.text_step


@given(plans, st.integers(600, 600), keeps)
def test_fixed_gives_a_length_for_each_step(plan: Plan, visual: int, keep: float) -> None:
    assume(keep <= plan.keep)
    needed = capacity(plan)
    texts = [text for text in range(1, plan.max_text + 1) if text + visual >= needed.pruned]
    lengths = {pruned_length(plan, text, visual, "fixed", needed, keep) for text in texts}
    assert len(lengths) <= -(-plan.max_text // plan.text_step)


def test_fixed_rounds_text_up_to_a_step() -> None:
    plan = make_plan(max_text=40, text_step=16)
    found = [pruned_length(plan, text, 100, "fixed", capacity(plan)) for text in (1, 10, 16, 17, 32, 33, 40)]
    assert found == [66, 66, 66, 82, 82, 98, 98]


def test_fixed_is_never_more_than_the_buffers_hold() -> None:
    plan = make_plan(max_text=40, max_visual=100, text_step=16)
    assert capacity(plan).pruned == 90
    assert pruned_length(plan, 33, 100, "fixed", capacity(plan)) == 90
    assert pruned_length(plan, 40, 100, "fixed", capacity(plan)) == 90


def test_text_beyond_its_room_takes_no_room_from_visual_tokens() -> None:
    plan = make_plan(max_text=40, max_visual=100)
    assert pruned_length(plan, 60, 40, "fixed", capacity(plan)) == 84  # 64 + 20


def test_a_keep_of_one_prompt_takes_the_plans_place() -> None:
    plan = make_plan(max_text=40, max_visual=100)
    assert pruned_length(plan, 10, 100, "exact", capacity(plan), 0.25) == 35
    assert pruned_length(plan, 10, 100, "exact", capacity(plan), 0.8) == 90


@given(plans, st.integers(1, 200), st.integers(1, 600), keeps)
def test_the_largest_keep_is_named(plan: Plan, text: int, visual: int, keep: float) -> None:
    needed = capacity(plan)
    assume(text <= plan.max_text)
    try:
        pruned_length(plan, text, visual, "exact", needed, keep)
    except UserError as error:
        named = re.search(r"it can be ([\d.]+) at most", str(error))
        assert named is not None
        largest = float(named[1])
        pruned_length(plan, text, visual, "exact", needed, largest)
        assert largest < keep
        with pytest.raises(UserError):
            pruned_length(plan, text, visual, "exact", needed, min(1.0, largest + 0.001 + 1 / visual))


def test_a_senseless_keep_is_refused() -> None:
    for keep in (0.0, -1.0, 1.01, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"`keep` .*must be above 0 and at most 1"):
            pruned_length(make_plan(), 10, 100, "exact", capacity(make_plan()), keep)
    unpruned = make_plan(layer=None)
    with pytest.raises(UserError, match=r"`keep` 0\.5: this bundle was exported without pruning"):
        pruned_length(unpruned, 10, 100, "exact", capacity(unpruned), 0.5)


def test_notes_say_what_is_kept_beyond_keep() -> None:
    plan = make_plan(max_text=128)
    needed = capacity(plan)

    def notes(text: int, visual: int, policy: str, keep: float = 0.5) -> list[str]:
        return pruning_notes(plan, text, visual, pruned_lengths(plan, text, visual, policy, needed, keep), keep)

    assert notes(20, 100, "exact") == notes(32, 100, "fixed") == []
    assert notes(20, 100, "fixed") == [
        "62 visual tokens kept, 12 more than keep 0.5 asks for: the pruned length is fixed in steps of 32"
    ]
    assert notes(2, 36, "fixed", 0.25) == [
        "nothing pruned, where keep 0.25 asks for 9 of 36 visual tokens: the pruned length is fixed in steps of 32"
    ]
    assert notes(2, 36, "fixed", 1.0) == []


def test_no_prompt_is_padded() -> None:
    plan = make_plan(max_text=40)
    assert pruned_length(plan, 10, 20, "fixed", capacity(plan)) == 30
    assert pruned_length(plan, 10, 0, "fixed", capacity(plan)) == 10


def test_an_unpruned_plan_keeps_all() -> None:
    plan = make_plan(layer=None)
    assert pruned_length(plan, 10, 100, "exact", capacity(plan)) == 110


def test_errors_name_the_limit_and_the_flag() -> None:
    plan = make_plan(max_text=40, max_visual=100)
    with pytest.raises(UserError, match=r"141 tokens \(41 text, 100 visual\).*140.*larger `export.max_text`"):
        pruned_length(plan, 41, 100, "exact", capacity(plan))
    with pytest.raises(UserError, match=r"pruned prompt has 95 tokens.*90.*smaller `keep`.*larger `export.max_text`"):
        pruned_length(plan, 70, 50, "fixed", capacity(plan))
    with pytest.raises(UserError, match=r"pruned prompt has 95 tokens.*90.*larger `export.max_text`"):
        pruned_length(plan, 95, 0, "exact", capacity(plan))
