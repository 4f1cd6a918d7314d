"""Intervals against published and textbook values."""

from __future__ import annotations

import numpy as np
import pytest

from fastv_calib.choice.intervals import bootstrap, told_apart, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe (1998), table I: 81/263, 15/148, 0/20, 1/29, by the score method without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes_table(hits: int, n: int, low: float, high: float) -> None:
    interval = wilson([True] * hits + [False] * (n - hits))
    assert interval.mean == hits / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_of_all_ends_at_one() -> None:
    assert wilson([True] * 7).high == 1.0


def test_bootstrap_is_about_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(1).normal(2.0, 3.0, 400).tolist()
    interval = bootstrap(values)
    half = 1.96 * np.std(values) / np.sqrt(400)
    assert interval.mean == pytest.approx(np.mean(values))
    assert (interval.low, interval.high) == pytest.approx((interval.mean - half, interval.mean + half), abs=0.04)
    assert bootstrap(values) == interval


def test_plans_are_told_apart_by_the_samples_on_which_they_differ() -> None:
    # McNemar's exact test: 0 of 5 has p = 0.0625, 0 of 6 has p = 0.03125.
    same = [True] * 100
    assert not told_apart([True] * 5 + same, [False] * 5 + same)
    assert told_apart([True] * 6 + same, [False] * 6 + same)
    assert not told_apart(same, same)
