"""Pruned lengths of plans with several cuts: in order, within the buffers, and where they do not fit what to do."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fastv_runtime.config.cuts import Cut
from fastv_runtime.config.lengths import capacity, kept_count, pruned_lengths
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError

FRACTIONS = st.lists(st.integers(1, 100).map(lambda n: n / 100), min_size=2, max_size=3, unique=True)


def plan_of(*keeps: float, max_text: int = 64, max_visual: int = 576) -> Plan:
    return Plan(
        cuts=tuple(Cut(layer=2 + index, keep=keep, ranker="fastv") for index, keep in enumerate(keeps)),
        length="exact",
        precision="float32",
        max_text=max_text,
        max_visual=max_visual,
        max_new_tokens=8,
    )


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    FRACTIONS.map(lambda values: sorted(values, reverse=True)),
    st.integers(1, 200),
    st.integers(0, 576),
    st.sampled_from(["exact", "fixed"]),
    st.none() | st.integers(1, 100).map(lambda n: n / 100),
)
@example([0.5, 0.2], 40, 576, "exact", 0.9)
def test_lengths_fit_or_the_largest_keep_is_said(
    keeps: list[float], text: int, visual: int, policy: str, keep: float | None
) -> None:
    plan = plan_of(*keeps)
    room = capacity(plan)
    assume(text + visual <= room.prompt)
    try:
        found = pruned_lengths(plan, text, visual, policy, room, keep)
    except UserError as error:
        said = re.search(r"it can be (\S+) at most", str(error))
        if said is None:  # whatever is kept after the last cut, the text is too long
            assert text > plan.max_text and "shorten the text" in str(error)
        elif kept_count(visual, float(said[1])) > 0:
            with_less = plan.cuts[-1].keep if keep is None else float(said[1])
            assert keep is not None and with_less < keep
            try:
                pruned_lengths(plan, text, visual, policy, room, with_less)
            except UserError as other:  # an earlier cut, by what its plan keeps
                assert "it can be" not in str(other)
        return
    assert len(found) == len(keeps)
    for before, after in pairwise((text + visual, *found)):
        assert text <= after <= before
    assert all(length <= most for length, most in zip(found, room.rows[1:], strict=True))
    if policy == "exact":
        last = keeps[-1] if keep is None else keep
        earlier = [max(each, last) if keep is not None else each for each in keeps[:-1]]
        assert found == tuple(text + kept_count(visual, each) for each in [*earlier, last])


def test_the_largest_keep_is_that_of_the_last_cut() -> None:
    """The first cut has room for half of the tokens and the last for a fifth; text that is shorter leaves its own."""
    plan = plan_of(0.5, 0.2)
    with pytest.raises(UserError, match=r"`keep` 0.9: .* it can be 0\.215 at most for this prompt"):
        pruned_lengths(plan, 55, 576, "exact", capacity(plan), 0.9)
    assert pruned_lengths(plan, 55, 576, "exact", capacity(plan), 0.215) == (55 + 288, 55 + 124)


def test_no_keep_is_asked_for_that_would_not_help() -> None:
    """70 tokens of text and half of the image do not fit, however few of its tokens the second cut leaves."""
    plan = plan_of(0.5, 0.02)
    with pytest.raises(UserError) as caught:
        pruned_lengths(plan, 70, 570, "exact", capacity(plan), 0.01)
    assert str(caught.value).startswith("the pruned prompt has 355 tokens and this bundle supports at most 352: ")
    assert "keep" not in str(caught.value)
