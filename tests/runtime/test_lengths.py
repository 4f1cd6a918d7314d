"""Pruned lengths: pure arithmetic, checked over many plans."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastv_runtime.config.lengths import capacity, kept_count, pruned_length
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError


def make_plan(**changes: object) -> Plan:
    settings = {
        "layer": 2,
        "keep": 0.5,
        "ranker": "fastv",
        "length": "exact",
        "precision": "float32",
        "max_text": 40,
        "max_visual": 600,
        "max_new_tokens": 8,
    }
    return Plan.model_validate(settings | changes)


plans = st.builds(
    lambda keep, text, visual: make_plan(keep=keep, max_text=text, max_visual=visual),
    st.floats(0.01, 1),
    st.integers(1, 200),
    st.integers(600, 2400),
)


@given(plans, st.integers(1, 200), st.integers(0, 2400), st.sampled_from(["fixed", "exact"]))
def test_a_pruned_length_fits_prompt_and_buffers(plan: Plan, text: int, visual: int, policy: str) -> None:
    needed = capacity(plan)
    try:
        pruned = pruned_length(plan, text, visual, policy, needed)
    except UserError:
        assert text > plan.max_text or visual > plan.max_visual
        return
    assert text <= pruned <= min(text + visual, needed.pruned)
    assert pruned + plan.max_new_tokens <= needed.suffix_cache


@given(plans, st.integers(1, 200), st.integers(1, 600))
def test_exact_keeps_what_the_paper_keeps(plan: Plan, text: int, visual: int) -> None:
    assume(text <= plan.max_text)
    assert pruned_length(plan, text, visual, "exact", capacity(plan)) == text + round(visual * plan.keep)


@given(plans, st.integers(1, 200), st.integers(1, 200), st.integers(1, 600))
def test_fixed_gives_one_length_whatever_the_text(plan: Plan, one: int, other: int, visual: int) -> None:
    assume(max(one, other) <= plan.max_text)
    lengths = {
        pruned_length(plan, text, visual, "fixed", capacity(plan))
        for text in (one, other)
        if text + visual >= plan.max_text + kept_count(visual, plan.keep)
    }
    assert len(lengths) <= 1


def test_fixed_gives_slack_to_visual_tokens() -> None:
    plan = make_plan(max_text=40)
    assert pruned_length(plan, 10, 100, "fixed", capacity(plan)) == 90


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
    with pytest.raises(UserError, match=r"text alone has 60 tokens.*40.*larger `export.max_text`"):
        pruned_length(plan, 60, 0, "fixed", capacity(plan))
    with pytest.raises(UserError, match=r"pruned prompt has 95 tokens.*90.*larger `export.max_text`"):
        pruned_length(plan, 95, 0, "exact", capacity(plan))
