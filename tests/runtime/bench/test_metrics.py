"""The table of metrics: all that a report shows of its quantities comes from it."""

from __future__ import annotations

from io import StringIO

import pytest
from markupsafe import escape
from rich.console import Console

from fastv_runtime.bench.analysis.metrics import METRICS, QUANTITIES, TTFT, Metric, quantities
from fastv_runtime.bench.models import Report, Round
from fastv_runtime.bench.output.page import markdown, page
from fastv_runtime.bench.output.tables import show
from tests.runtime.bench.runners import KEPT, TEXT, WORKLOAD, report_of, turn

by_name = pytest.mark.parametrize("metric", METRICS, ids=QUANTITIES)


@pytest.fixture(scope="module")
def report() -> Report:
    """A report that has every metric."""
    turns = {"dense": [turn()] * 3, "pruned": [turn(60, pruned=TEXT + KEPT)] * 3}
    return report_of(turns, joules=3.0)


@pytest.fixture(scope="module")
def drawn(report: Report) -> str:
    return page(report)


@pytest.fixture(scope="module")
def printed(report: Report) -> str:
    console = Console(file=StringIO(), width=80)
    show(report, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_notes_are_left_out_where_nobody_wants_them(report: Report) -> None:
    noted = report.model_copy(update={"notes": ["pruned is short"], "noise": ["the clock was lowered"]})
    for notes in (True, False):
        console = Console(file=StringIO(), width=80)
        show(noted, console, notes=notes)
        assert isinstance(console.file, StringIO)
        text = console.file.getvalue()
        assert ("note: pruned is short" in text, "noisy machine: the clock" in text) == (notes, notes)
        assert TTFT.label in text


@by_name
def test_a_metric_is_in_every_table_that_it_asks_for(report: Report, drawn: str, printed: str, metric: Metric) -> None:
    assert all(metric.name in result.figures for result in report.results)
    assert f"<th>{metric.label}</th>" in drawn
    pasted = f" {metric.label_with_unit} |" in markdown(report).splitlines()[0]
    # A terminal leaves out what does not fit, so that the whole heading is looked for.
    heading = next(line for line in printed.splitlines() if TTFT.label in line)
    shown = metric.label in [cell.strip() for cell in heading.split("┃")]
    assert (pasted, shown) == {
        "page": (False, False),
        "markdown": (True, False),
        "terminal": (True, True),
    }[metric.smallest_table]


@by_name
def test_a_metric_with_a_gain_has_a_chart_and_a_verdict(
    report: Report, drawn: str, printed: str, metric: Metric
) -> None:
    ratio = report.ratio("pruned", WORKLOAD.name, metric.name)
    assert (ratio is not None) == (metric.gain is not None)
    assert (f"Gain of {metric.name} beside" in drawn) == (metric.gain is not None)
    if ratio is not None and metric.gain is not None:
        assert metric.gain.words in ratio.verdict and str(escape(ratio.verdict)) in drawn
        assert (f"pruned: {ratio.verdict}" in printed) == metric.leading
        assert (ratio.bound is not None) == (metric.gain.bound is not None)


def test_what_a_round_does_not_know_is_in_no_table() -> None:
    bare = turn(decode=None).model_copy(update={"stages_ms": {"vision": 20.0}})
    known = set(quantities(Round(index=0, workload="w", runner="r", turn=bare)))
    assert {"vision", "ttft"} <= known
    assert not known & {"preprocess", "rest", "prefill", "decode", "tokens_per_second", "joules"}
    text = page(report_of({"dense": [bare]}))
    assert {metric.name for metric in METRICS if f"<th>{metric.label}</th>" in text} == known


def test_no_two_metrics_have_one_name() -> None:
    assert len(set(QUANTITIES)) == len(METRICS)
    assert len({metric.label for metric in METRICS}) == len(METRICS)
