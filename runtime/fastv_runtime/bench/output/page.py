"""The report as one HTML page that loads nothing, for a screen, a phone or paper, light or dark."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastv_runtime.bench.analysis.metrics import HEADLINE_FIRST, METRICS, TTFT, Metric
from fastv_runtime.bench.models import Figure, Ratio, Report
from fastv_runtime.bench.output.bars import MEMORY, PARTS, memory_bars, stage_bars
from fastv_runtime.bench.output.curves import keep_plot, ratio_plot, series_names
from fastv_runtime.report.numbers import interval, mib, milliseconds, times, times_interval

TEMPLATE = "report.html.jinja"


def page(report: Report) -> str:
    """The page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "ms": milliseconds,
        "interval": interval,
        "times": times,
        "cell": _cell,
        "mib": mib,
    }
    template = environment.from_string((Path(__file__).parent / TEMPLATE).read_text(encoding="utf-8"))
    gains = [(metric, drawn) for metric in HEADLINE_FIRST if (drawn := ratio_plot(report, metric.name)) is not None]
    keeps = keep_plot(report)
    return template.render(
        report=report,
        best=best(report),
        title=title(report),
        metrics=_known(report),
        headline=TTFT,
        parts=PARTS,
        memory_parts=MEMORY,
        several_cuts=any(each.bundle is not None and len(each.bundle.plan.cuts) > 1 for each in report.runners),
        stages=[(workload, Markup(stage_bars(report, workload.name))) for workload in report.workloads],
        keeps=None if keeps is None else Markup(keeps),
        series=series_names(report),
        gains=[(metric, Markup(drawn)) for metric, drawn in gains],
        memory=Markup(memory_bars(report)) if any(each.memory for each in report.runners) else None,
        markdown=markdown(report),
    )


def _known(report: Report) -> list[Metric]:
    """Metrics that any result has a figure of."""
    return [metric for metric in METRICS if any(metric.name in result.figures for result in report.results)]


def _cell(figure: Figure | None) -> Markup:
    """A figure in two lines."""
    if figure is None:
        return Markup("")
    middle, _, rest = interval(figure).partition(" ")
    return Markup(f"{middle}<small>{rest.strip('()')}</small>")


def best(report: Report) -> Ratio | None:
    """The largest gain at the first token that the repeats can tell from none."""
    told = [each for each in report.ratios if each.quantity == TTFT.name and each.figure.p5 > 1]
    return max(told, key=lambda each: each.figure.median, default=None)


def title(report: Report) -> str:
    """The finding, in a line."""
    found = best(report)
    if found is not None:
        return f"{times(found.figure.median)} as fast to the first token"
    if report.ratios:
        return "No gain that these repeats can tell"
    return f"Latency of {', '.join(each.name for each in report.runners)}"


def markdown(report: Report) -> str:
    """The figures as a table to paste."""
    columns = [metric for metric in _known(report) if metric.smallest_table != "page"]
    titles = [metric.label_with_unit for metric in columns]
    lines = [
        "| prompt | bundle | " + " | ".join(titles) + " | gain | bound |",
        "| --- | --- | " + " | ".join("---" for _ in titles) + " | --- | --- |",
    ]
    for result in report.results:
        ratio = report.ratio(result.runner, result.workload, TTFT.name)
        cells = [interval(result.figures.get(metric.name)) for metric in columns]
        gain, bound = ("", "") if ratio is None else (times_interval(ratio.figure), times(ratio.bound))
        lines.append("| " + " | ".join([result.workload, result.runner, *cells, gain, bound]) + " |")
    return "\n".join(lines)
