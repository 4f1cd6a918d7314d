"""Figures, ratios, bounds and words from rounds."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastv_runtime.bench.analysis.bounds import decode_bound, prefill_bound, reached, ttft_bound
from fastv_runtime.bench.analysis.statistics import figure
from fastv_runtime.bench.analysis.summary import baseline_of
from fastv_runtime.bench.machine.conditions import Conditions, load_of_others
from fastv_runtime.bench.session import without_baseline
from fastv_runtime.config.plan import Weights
from tests.runtime.bench.runners import (
    DENSE,
    KEPT,
    PRUNED,
    QUIET,
    TEXT,
    WORKLOAD,
    record,
    report_of,
    turn,
)

PRUNED_LENGTH = TEXT + KEPT


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=40))
def test_figures_lie_within_what_was_measured(values: list[float]) -> None:
    found = figure(values)
    assert min(values) * (1 - 1e-12) <= found.p5 <= found.median <= found.p95 <= max(values) * (1 + 1e-12)
    assert found.median == statistics.median(values)
    assert found.runs == len(values)


def test_ratios_are_taken_round_by_round() -> None:
    # Both drift by a factor of four; within each round the ratio is two.
    drift = [1.0, 2.0, 3.0, 4.0]
    report = report_of(
        {
            "dense": [turn(200 * each) for each in drift],
            "pruned": [turn(100 * each, pruned=PRUNED_LENGTH) for each in drift],
        }
    )
    ratio = report.ratio("pruned", WORKLOAD.name, "prefill")
    assert ratio is not None and ratio.baseline == "dense"
    assert (ratio.figure.p5, ratio.figure.median, ratio.figure.p95) == pytest.approx((2, 2, 2))
    assert report.ratio("dense", WORKLOAD.name, "prefill") is None


def test_the_bound_is_that_of_the_flops_and_its_share_is_of_the_time_saved() -> None:
    # 24 layers of Qwen2-0.5B, 640 tokens: attention of two layers on all, of the others on 352; MLPs of one, and of 22.
    bound = prefill_bound(record("pruned", PRUNED).bundle, 640, [352])  # type: ignore[arg-type]
    mlp = 3 * 896 * 4864

    def attention(rows: int) -> int:
        return rows * (2 * 896 * 896 + 2 * 896 * 128 + 2 * rows * 896)

    dense = 24 * attention(640) + (23 * 640 + 1) * mlp
    assert bound == pytest.approx(dense / (2 * attention(640) + 22 * attention(352) + (640 + 22 * 352 + 1) * mlp))
    assert reached(bound, bound) == pytest.approx(1)
    assert reached(1.0, bound) == 0
    assert reached(0.9, bound) < 0  # type: ignore[operator]
    assert reached(1.5, 1.001) is None
    # Of 300 ms, 200 are prefill: twice as fast leaves 200.
    assert ttft_bound(2.0, 300.0, 200.0) == pytest.approx(1.5)
    assert 1 < decode_bound(record("pruned", PRUNED).bundle, 640, [352]) < 1.01  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pruned", "words"),
    [
        ([60.0] * 5, "the prefill takes 60% of the unpruned model's: 1.67x, 90% of the saving"),
        ([120.0] * 5, "pruning does not pay for the prefill: it takes 1.20x as long"),
        ([20.0] * 5, "5.00x, more than the 1.80x that arithmetic allows: measure again when the machine is quiet"),
        ([80.0, 90.0, 100.0, 110.0, 120.0], "these repeats cannot tell whether pruning pays for the prefill"),
    ],
)
def test_verdicts(pruned: list[float], words: str) -> None:
    report = report_of({"dense": [turn()] * 5, "pruned": [turn(each, pruned=PRUNED_LENGTH) for each in pruned]})
    ratio = report.ratio("pruned", WORKLOAD.name, "prefill")
    assert ratio is not None and words in ratio.verdict


def test_it_says_where_pruning_cannot_pay() -> None:
    report = report_of({"dense": [turn()] * 5, "pruned": [turn()] * 5})  # nothing was pruned
    said = {ratio.quantity: ratio.verdict for ratio in report.ratios}
    assert "pruning does not pay for the first token, as expected: nothing to prune (at most 1.00x)" in said["ttft"]
    assert "reads all weights, and pruning shortens the cache alone" in said["decode"]


def test_a_bundle_is_compared_with_the_unpruned_one_of_its_precision() -> None:
    few = {"weights": Weights(bits=4, block=64)}
    all_ = [
        record("dense", DENSE),
        record("dense4", DENSE.model_copy(update=few)),
        record("pruned4", PRUNED.model_copy(update=few)),
        record("half", PRUNED.model_copy(update={"precision": "float16"})),
    ]
    assert [baseline_of(each, all_) for each in all_] == [None, None, all_[1], None]
    (note,) = without_baseline(all_)
    assert note.startswith("half has no baseline") and "no pruning" in note


def test_a_noisy_machine_is_called_noisy() -> None:
    steady = {"dense": [turn()] * 5}
    assert report_of(steady).noise == ()
    busy = QUIET.model_copy(update={"load_of_others": 0.2, "throttled": {"over-current": 3}})
    assert [line.split()[0] for line in report_of(steady, conditions=busy).noise] == ["other", "heat"]
    (line,) = report_of({"dense": [turn(each) for each in (80, 100, 100, 100, 120)]}).noise
    assert "1 of the figures spread over more than 10%" in line and "ttft of dense" in line


def test_load_of_others_is_a_share() -> None:
    assert load_of_others(busy=12.0, own=10.0, available=20.0) == pytest.approx(0.1)
    assert load_of_others(busy=9.0, own=10.0, available=20.0) == 0  # clocks of the system tick coarsely
    assert load_of_others(0, 0, 0) is None
    assert Conditions.model_validate_json(QUIET.model_dump_json()) == QUIET
