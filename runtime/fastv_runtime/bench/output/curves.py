"""Drawings of gains: the first token over the share that is kept, and ratios beside what arithmetic allows."""

from __future__ import annotations

from collections.abc import Sequence

from fastv_runtime.bench.analysis.bounds import prefill_bound
from fastv_runtime.bench.models import Ratio, Report, RunnerRecord, WorkloadRecord
from fastv_runtime.config.lengths import keeps, kept_count, with_keep
from fastv_runtime.config.plan import Plan
from fastv_runtime.report.numbers import interval, times, times_interval
from fastv_runtime.report.svg import RIGHT, TOP, WIDTH, Axes, dot, drawing, group, line, path, text, ticks

SERIES = 6
"""Colours of the page's style; more series begin again."""
HEIGHT = 300
ROW = 34


def keep_plot(report: Report) -> str | None:
    """Time to the first token over keep, a line per workload; dashed: what the FLOPs would allow at each keep.

    None without a bundle that prunes and has a baseline.
    """
    series = [(workload, points) for workload in report.workloads if len(points := _points(report, workload)) > 1]
    if not series:
        return None
    top = ticks(0, max(report_interval(report, each, w.name)[1] for w, points in series for _, each in points))
    axes = Axes((0.0, 1.0), (0.0, top[-1]), HEIGHT)
    keeps = [0, 0.25, 0.5, 0.75, 1]
    parts = [
        axes.rows(top, [f"{tick:,g}" for tick in top]),
        axes.columns(keeps, [f"{keep:g}" for keep in keeps], "ms to the first token, by keep (1: not pruned)"),
    ]
    for index, (workload, points) in enumerate(series):
        kind = f"series-{index % SERIES}"
        dense = next(each for keep, each in points if keep == 1)
        allowed = [axes.at(keep / 20, _allowed(report, workload, points, dense, keep / 20)) for keep in range(1, 21)]
        marks = []
        for keep, runner in sorted(points, key=lambda point: point[0]):
            result = report.result(runner.name, workload.name)
            assert result is not None
            ttft = result.figures["ttft"]
            x, y = axes.at(keep, ttft.median)
            marks.append(line(axes.at(keep, ttft.p5), axes.at(keep, ttft.p95), "whisker"))
            marks.append(dot(x, y, "", f"{runner.name}, {workload.name}: {interval(ttft)} ms"))
        parts.append(group([path(allowed, "allowed"), *marks], kind))
    return drawing(parts, "Time to the first token over keep", HEIGHT)


def series_names(report: Report) -> list[str]:
    """Workloads of `keep_plot`, in the order of their colours."""
    return [workload.name for workload in report.workloads if len(_points(report, workload)) > 1]


def ratio_plot(report: Report, quantity: str) -> str | None:
    """A row per ratio: its interval and median, and a mark at its bound. None where there are no such ratios."""
    rows = [each for each in report.ratios if each.quantity == quantity]
    if not rows:
        return None
    low = min([1.0, *(each.figure.p5 for each in rows)])
    high = max([1.0, *(each.figure.p95 for each in rows), *(each.bound or 1.0 for each in rows)])
    scale = ticks(low, high + 0.02 * (high - low), 5)
    height = ROW * len(rows) + TOP + 44
    axes = Axes((scale[0], scale[-1]), (0.0, float(len(rows))), height, left=10)
    parts = [axes.columns(scale, [f"{tick:g}×" for tick in scale], "speedup over unpruned")]
    one = axes.at(1.0, 0)[0]
    parts.append(line((one, axes.at(1, len(rows))[1]), (one, axes.at(1, 0)[1]), "one"))
    for index, ratio in enumerate(rows):
        parts.append(_ratio_row(axes, len(rows) - index, ratio))
    return drawing(parts, f"Gain of {quantity} beside its bound", height)


def report_interval(report: Report, runner: RunnerRecord, workload: str) -> tuple[float, float]:
    """Between what times nine of ten first tokens came."""
    result = report.result(runner.name, workload)
    return (0.0, 0.0) if result is None else (result.figures["ttft"].p5, result.figures["ttft"].p95)


def _ratio_row(axes: Axes, row: int, ratio: Ratio) -> str:
    middle = row - 0.68
    x, y = axes.at(ratio.figure.median, middle)
    (low, _), (high, _) = axes.at(ratio.figure.p5, middle), axes.at(ratio.figure.p95, middle)
    title = f"{ratio.runner}, {ratio.workload}: {times_interval(ratio.figure)}, bound {times(ratio.bound)}"
    parts = [text(10, axes.at(0, row - 0.28)[1], f"{ratio.runner} · {ratio.workload}", kind="small")]
    parts.append(text(WIDTH - RIGHT, axes.at(0, row - 0.28)[1], times(ratio.figure.median), "end", "label"))
    if ratio.bound is not None:
        at = axes.at(ratio.bound, middle)[0]
        parts.append(line((at, y - 8), (at, y + 8), "bound"))
    parts += [line((low, y), (high, y), "whisker"), dot(x, y, "", title, 4.5)]
    return group(parts, "series-0")


def _points(report: Report, workload: WorkloadRecord) -> list[tuple[float, RunnerRecord]]:
    """Bundles that prune, by keep, and their baseline at 1; empty where the workload has nothing to prune.

    One K, ranker and precision, those of the first that prunes: others would not lie on one curve. Of several cuts
    those before the last leave the same, or what `keeps` makes of it.
    """
    if not workload.visual_tokens:
        return []
    ratios = [each for each in report.ratios if (each.workload, each.quantity) == (workload.name, "ttft")]
    records = {each.name: each for each in report.runners}
    found: list[tuple[float, RunnerRecord]] = []
    alike: object = None
    for ratio in ratios:
        facts = records[ratio.runner].bundle
        if facts is None:
            continue
        key = ([(cut.layer, cut.ranker) for cut in facts.plan.cuts], ratio.baseline)
        alike = alike or key
        if key == alike:
            found.append((facts.plan.keep, records[ratio.runner]))
            baseline = records[ratio.baseline]
    if not found:
        return []
    least = _plan(min(found, key=lambda point: point[0])[1])
    alike_before = [point for point in found if with_keep(least, point[0]).cuts == _plan(point[1]).cuts]
    return [*alike_before, (1.0, baseline)]


def _plan(runner: RunnerRecord) -> Plan:
    assert runner.bundle is not None
    return runner.bundle.plan


def _allowed(
    report: Report,
    workload: WorkloadRecord,
    points: Sequence[tuple[float, RunnerRecord]],
    dense: RunnerRecord,
    keep: float,
) -> float:
    """The baseline's time to the first token, had its prefill shrunk as its FLOPs do."""
    result = report.result(dense.name, workload.name)
    facts = min(points, key=lambda point: point[0])[1].bundle
    assert result is not None and facts is not None
    text_tokens = workload.prompt_tokens - workload.visual_tokens
    kept = [kept_count(workload.visual_tokens, each) for each in keeps(facts.plan, keep)]
    bound = prefill_bound(facts, workload.prompt_tokens, [text_tokens + each for each in kept])
    return result.figures["ttft"].median - result.figures["prefill"].median * (1 - 1 / bound)
