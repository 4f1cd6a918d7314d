"""A report for a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Column, Table

from fastv_runtime.bench.analysis.compare import ReportComparison
from fastv_runtime.bench.analysis.metrics import METRICS, TTFT
from fastv_runtime.bench.models import Figure, Report
from fastv_runtime.report.numbers import interval, mib, milliseconds

COLUMNS = tuple(metric for metric in METRICS if metric.smallest_table == "terminal")
SAID = tuple(metric.name for metric in METRICS if metric.leading)
"""Whose verdicts are printed; the report has them all."""


def show(
    report: Report, console: Console | None = None, wording: Callable[[str], str] = str, *, notes: bool = True
) -> None:
    """Print a table for each workload, and what to make of it.

    wording: what a note is printed as. notes: whether notes are, and what made the machine noisy.
    """
    console = console or Console()

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True)

    for workload in report.workloads:
        line(f"\n{workload.name}: {workload.prompt_tokens} tokens, {workload.visual_tokens} visual; ms (p5 to p95)")
        console.print(_figures(report, workload.name))
        for ratio in report.ratios:
            if ratio.workload == workload.name and ratio.quantity in SAID:
                line(f"{ratio.runner}: {ratio.verdict}")
    memory = Table("memory, MiB", *(_right(name) for name in ("weights", "caches", "workspace", "libraries", "peak")))
    for runner in report.runners:
        if (held := runner.memory) is not None:
            parts = (held.weights, held.caches, held.workspace, held.libraries, held.process)
            memory.add_row(runner.name, *map(mib, parts))
    if memory.row_count:
        console.print(memory)
    if notes:
        for note in report.notes:
            line(f"note: {wording(note)}", "yellow")
        for reason in report.noise:
            line(f"noisy machine: {reason}", "red")
    if not report.complete:
        line("interrupted: these are the rounds until then", "red")


def show_comparison(found: ReportComparison, console: Console | None = None) -> None:
    """Print what changed, and what that is worth."""
    console = console or Console()
    table = Table("", "prompt", "quantity", _right("old"), _right("new"), _right("new/old"), "")
    same = 0
    for change in found.changes:
        if change.outcome == "same":
            same += 1
            continue
        style = {"worse": "red", "better": "green"}.get(change.outcome, "")
        cells = (change.runner, change.workload, change.quantity, change.old, change.new)
        table.add_row(*cells, f"{change.factor:.2f}", change.outcome, style=style)
    if table.row_count:
        console.print(table)
    for text in found.missing:
        console.print(f"only in the old report: {text}", highlight=False, soft_wrap=True)
    if found.environment:
        console.print("other conditions, so that seconds are not judged, only ratios and memory:", style="yellow")
        for text in found.environment:
            console.print(f"  {text}", highlight=False, soft_wrap=True)
    for text in found.caveats:
        console.print(text, style="yellow", highlight=False, soft_wrap=True)
    console.print(
        f"{len(found.worse)} worse beyond noise, {sum(each.outcome == 'better' for each in found.changes)} better, "
        f"{same} the same",
        highlight=False,
    )


def _figures(report: Report, workload: str) -> Table:
    table = Table(
        Column("", no_wrap=True), *(_right(metric.label) for metric in COLUMNS), _right("gain"), _right("bound")
    )
    for runner in report.runners:
        result = report.result(runner.name, workload)
        if result is None:
            continue
        ratio = report.ratio(runner.name, workload, TTFT.name)
        table.add_row(
            runner.name,
            *(_shown(result.figures.get(metric.name), metric is TTFT) for metric in COLUMNS),
            "" if ratio is None else f"{ratio.figure.median:.2f}x",
            "" if ratio is None or ratio.bound is None else f"{ratio.bound:.2f}x",
        )
    return table


def _right(title: str) -> Column:
    return Column(title, justify="right", no_wrap=True)


def _shown(figure: Figure | None, whole: bool) -> str:
    """`whole`: with its interval."""
    if figure is None:
        return ""
    return interval(figure) if whole else milliseconds(figure.median)
