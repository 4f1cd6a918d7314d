"""How many visual tokens a share keeps: the rule alone, over many scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastv_runtime.config.cuts import Cut, one_cut
from fastv_runtime.config.lengths import capacity, pruned_lengths
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.keep import HeldLengths, held_count, in_steps, read_keep

scores = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60).map(lambda each: np.asarray(each, np.float32))
shares = st.floats(0.001, 0.999)


def make_plan(cuts: Sequence[Cut] = one_cut(2, 0.5), **changes: Any) -> Plan:
    room: dict[str, Any] = {"max_text": 40, "max_visual": 600, "max_new_tokens": 8, "text_step": 16}
    return Plan(cuts=tuple(cuts), length="exact", precision="float32", **(room | changes))


@given(scores, shares)
def test_it_is_the_fewest_that_hold_the_share(found: np.ndarray, share: float) -> None:
    count = held_count(found, share)
    best = sorted(found.astype(float).tolist(), reverse=True)
    slack = 1e-9 * sum(best)
    assert 1 <= count <= len(best)
    assert sum(best[:count]) >= share * sum(best) - slack
    assert count == 1 or sum(best[: count - 1]) < share * sum(best) + slack


def test_some_counts() -> None:
    found = np.asarray([0.1, 0.4, 0.2, 0.3], np.float32)
    assert [held_count(found, share) for share in (0.1, 0.39, 0.41, 0.69, 0.71, 0.89, 0.91, 0.999)] == [
        *(1, 1, 2, 2, 3, 3, 4, 4)
    ]
    assert held_count(np.zeros(5, np.float32), 0.9) == 1
    assert held_count(np.full(100, 0.01, np.float32), 0.499) == 50
    assert 1 <= held_count(np.full(5, np.nan, np.float32), 0.9) <= 5  # the answer's own check refuses them


@given(scores, shares, shares)
def test_a_larger_share_keeps_no_fewer(found: np.ndarray, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert held_count(found, low) <= held_count(found, high)


@given(st.integers(1, 3000), st.integers(1, 64), st.data())
def test_steps_bound_how_many_counts_there_are(visual: int, steps: int, data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, visual), min_size=1, max_size=20))
    found = [in_steps(count, visual, steps) for count in counts]
    assert set(found) <= {round(visual * step / steps) for step in range(1, steps + 1)}
    for count, stepped in zip(counts, found, strict=True):
        assert count <= stepped <= min(visual, count + visual / steps + 1)


def test_some_steps() -> None:
    assert [in_steps(count, 144, 16) for count in (1, 9, 10, 143, 144)] == [9, 9, 18, 144, 144]
    assert [in_steps(count, 10, 4) for count in (1, 2, 3, 6, 9)] == [2, 2, 5, 8, 10]  # of 2.5, 5, 7.5, 10


@settings(max_examples=60)
@given(st.data(), shares, st.sampled_from(["exact", "fixed"]), st.integers(1, 40), st.integers(1, 300))
def test_cuts_leave_ever_fewer_and_never_more_than_keep(
    data: st.DataObject, share: float, policy: str, text: int, visual: int
) -> None:
    plan = make_plan([Cut(layer=2, keep=0.6, ranker="fastv"), Cut(layer=4, keep=0.2, ranker="fastv")])
    most = pruned_lengths(plan, text, visual, policy, capacity(plan))
    held = HeldLengths(plan, share, text, visual, policy, most)
    rows, left = text + visual, []
    for _ in plan.cuts:
        drawn = np.random.default_rng(data.draw(st.integers(0, 99))).exponential(size=rows) ** 3
        prunable = np.arange(rows) < rows - text
        left.append(held(drawn.astype(np.float32), prunable))
        rows = left[-1]
    assert visual + text >= left[0] >= left[1] >= min(text + 1, most[1])
    assert all(length <= limit for length, limit in zip(left, most, strict=True))
    assert all(count >= 1 for count in held.held) or most[0] == text


def test_fixed_lengths_are_few() -> None:
    plan = make_plan()
    rng = np.random.default_rng(0)
    found = set()
    for text in range(1, 33):
        most = pruned_lengths(plan, text, 144, "fixed", capacity(plan))
        drawn = rng.exponential(size=text + 144).astype(np.float32) ** rng.integers(1, 9)
        held = HeldLengths(plan, 0.6, text, 144, "fixed", most)
        found.add(held(drawn, np.arange(text + 144) < 144))
    assert found <= {room + 9 * steps for room in (16, 32) for steps in range(1, 9)}
    assert len(found) > 2


def test_what_was_asked_and_what_the_plan_says() -> None:
    fixed, shared = make_plan(), make_plan(share=0.7)
    asked: list[tuple[Plan, Any, float | None]] = [
        *((fixed, None, None), (fixed, 0.3, None), (fixed, "auto", None), (fixed, "auto", 0.6), (fixed, 0.3, 0.6)),
        *((fixed, None, 0.6), (shared, None, None), (shared, 0.3, None), (shared, "auto", None), (shared, 1, 0.6)),
    ]
    assert [((found := read_keep(*each)).keep, found.share) for each in asked] == [
        *((None, None), (0.3, None), (None, 0.9), (None, 0.6), (0.3, 0.6)),
        *((None, 0.6), (None, 0.7), (0.3, None), (None, 0.7), (1, 0.6)),
    ]


@pytest.mark.parametrize(
    ("keep", "share", "name"), [("auto", None, "`keep` auto"), (None, 0.5, "`share` 0.5"), (0.3, 0.5, "`share` 0.5")]
)
def test_plans_without_cuts_or_scores_are_refused(keep: Any, share: float | None, name: str) -> None:
    with pytest.raises(UserError) as caught:
        read_keep(make_plan([]), keep, share)
    assert "this bundle was exported without pruning" in str(caught.value)
    blind = make_plan([*one_cut(2, 0.5), Cut(layer=3, keep=0.2, ranker="knorm", signals=("key_norms",))])
    with pytest.raises(UserError) as caught:
        read_keep(blind, keep, share)
    assert str(caught.value).startswith(
        f"{name}: is of the last prompt token's scores, which ranker knorm, at layer 3 of this bundle, does not read"
    )
    assert read_keep(blind, 0.1, None).share is None
