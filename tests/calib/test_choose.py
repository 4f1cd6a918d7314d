"""Which plan is chosen from figures that are made up, and what is said where samples are few."""

from __future__ import annotations

import pytest

from fastv_calib.choice.choose import choose, doubts, refusal
from fastv_calib.choice.intervals import bootstrap, wilson
from fastv_calib.choice.summary import pareto
from fastv_export.calibration import Objectives, PlanFigures, Ttft
from fastv_export.points import KeptPoint, PointCut

GIB = 2**30


def hits(count: int, n: int = 100) -> list[bool]:
    return [index < count for index in range(n)]


def plan(
    flops: float,
    matched: list[bool],
    *,
    ranker: str = "fastv",
    layer: int | None = 2,
    gib: float = 1,
    ms: float | None = None,
) -> PlanFigures:
    return PlanFigures(
        point=KeptPoint(cuts=() if layer is None else (PointCut(layer=layer, keep=flops, ranker=ranker),)),
        first_token=wilson(matched),
        match=wilson(matched),
        kl=bootstrap([0.0]),
        accuracy=None,
        flops=flops,
        flops_share=flops,
        cache_bytes=flops,
        cache_share=flops,
        memory_bytes=int(gib * GIB),
        ttft=None if ms is None else Ttft(ms=ms, measured=False),
    )


def asked(agreement: float, memory: float | None = None, ttft: float | None = None) -> Objectives:
    return Objectives(min_agreement=agreement, max_memory=memory, precision="float32", max_new_tokens=1, max_ttft=ttft)


MATCHES = [hits(100), hits(97), hits(90), hits(100), hits(100)]
PLANS = [
    plan(0.8, MATCHES[0], gib=3),
    plan(0.6, MATCHES[1], gib=2),  # Wilson: 91.5% to 99.0%
    plan(0.4, MATCHES[2], gib=1),  # 82.6% to 94.5%
    plan(0.3, MATCHES[3], ranker="random"),
    plan(1.0, MATCHES[4], layer=None),
]


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        (asked(0.995), 0),
        (asked(0.985), 1),  # its interval reaches 99.0%
        (asked(0.9), 2),  # not the control, which is cheaper and always right
        (asked(0.9, 1.5), 2),
        (asked(0.985, 2.5), 1),
        (asked(0.985, 1.5), None),
        (asked(0.995, 2.5), None),
    ],
)
def test_the_cheapest_that_the_interval_does_not_exclude(objectives: Objectives, expected: int | None) -> None:
    assert choose(PLANS, objectives) == expected


def test_a_refusal_says_what_would_do() -> None:
    assert "contradict each other: the smallest plan that agrees, K=2 keep 0.6 fastv, takes 2 GiB" in refusal(
        PLANS, asked(0.985, 1.5)
    )
    without = [plan(0.4, hits(90)), plan(0.2, hits(50))]
    assert "no plan meets it; the best, K=2 keep 0.4 fastv, matches on 90.0%" in refusal(without, asked(0.99))


TIMED = [
    plan(0.6, hits(100), gib=2, ms=10),
    plan(0.4, hits(100), gib=1, ms=30),  # cheaper, and slower: a ranker's own work, or a measurement
    plan(0.2, hits(50), gib=0.5, ms=5),
]


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        (asked(0.9), 1),
        (asked(0.9, ttft=20), 0),
        (asked(0.9, 3, 10), 0),
        (asked(0.4, 1, 20), 2),
        (asked(0.9, ttft=9), "0.9 and `max_ttft` 9 contradict each other: the fastest plan that agrees, K=2 keep 0.6 "),
        (asked(0.9, 1.5, 20), "0.9, `max_memory` 1.5 and `max_ttft` 20 contradict each other: the smallest plan that"),
        (asked(0.9, 1.5, 9), "0.9 and `max_ttft` 9 contradict"),
        (asked(0.9, 0.7, 20), "0.9 and `max_memory` 0.7 contradict"),
        (asked(0.9, 0.7, 9), "0.9, `max_memory` 0.7 and `max_ttft` 9 contradict"),
    ],
)
def test_objectives_combine(objectives: Objectives, expected: int | str) -> None:
    chosen = choose(TIMED, objectives)
    if isinstance(expected, int):
        assert chosen == expected
    else:
        assert chosen is None and refusal(TIMED, objectives).startswith("`min_agreement` " + expected)


def test_nothing_times_what_agrees() -> None:
    assert refusal(PLANS, asked(0.9, ttft=9)) == (
        "`max_ttft` 9: none of `bundles` tells how long plans that agree take: add one exported with "
        "`export.precision` fp32"
    )


def test_doubts() -> None:
    assert doubts(PLANS, MATCHES, 2, asked(0.9)) == []  # nothing is cheaper
    (below,) = doubts(PLANS, MATCHES, 1, asked(0.985))
    assert "97.0% of 100 samples, below the 98.5%" in below
    # 97 of 100 and 90 of 100 differ on 7 samples, p = 0.016; 100 and 97 on 3, p = 0.25.
    (alike,) = doubts(PLANS, MATCHES, 0, asked(0.99))
    assert "too few to tell K=2 keep 0.8 fastv from the next cheaper plan, K=2 keep 0.6 fastv" in alike
    one = [[True], [False]]
    unsure, untold = doubts([plan(0.8, one[0]), plan(0.6, one[1])], one, 0, asked(0.9))
    assert "1 sample is too few to know that K=2 keep 0.8 fastv reaches 90.0%: the 95% interval goes down to" in unsure
    assert "1 sample is too few to tell" in untold


def test_the_pareto_set() -> None:
    worse = plan(0.7, hits(95))  # dearer than 0.6, which matches more often
    assert pareto([*PLANS, worse]) == (0, 1, 2)
