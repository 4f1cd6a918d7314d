"""The report as one HTML page that loads nothing, for a screen, a phone or paper, light or dark."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastv_runtime.bench.models import COMPARED, QUANTITIES, Figure, Ratio, Report
from fastv_runtime.bench.output.bars import MEMORY, PARTS, memory_bars, stage_bars
from fastv_runtime.bench.output.curves import keep_plot, ratio_plot, series_names
from fastv_runtime.report.numbers import interval, mib, milliseconds, times, times_interval

TEMPLATE = "report.html.jinja"
NAMES = {
    "rest": "rest",
    "prefill": "prefill",
    "ttft": "first token",
    "decode": "per token",
    "tokens_per_second": "tokens/s",
    "joules": "joules",
}
"""Of quantities, where they differ from what the report calls them."""


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
    shown = [name for name in QUANTITIES if any(name in result.figures for result in report.results)]
    gains = {name: drawn for name in COMPARED if (drawn := ratio_plot(report, name)) is not None}
    keeps = keep_plot(report)
    return template.render(
        report=report,
        best=best(report),
        title=title(report),
        names={name: NAMES.get(name, name) for name in QUANTITIES},
        quantities=shown,
        parts=PARTS,
        memory_parts=MEMORY,
        stages=[(workload, Markup(stage_bars(report, workload.name))) for workload in report.workloads],
        keeps=None if keeps is None else Markup(keeps),
        series=series_names(report),
        gains={name: Markup(drawn) for name, drawn in gains.items()},
        memory=Markup(memory_bars(report)) if any(each.memory for each in report.runners) else None,
        markdown=markdown(report),
    )


def _cell(figure: Figure | None) -> Markup:
    """A figure in two lines."""
    if figure is None:
        return Markup("")
    middle, _, rest = interval(figure).partition(" ")
    return Markup(f"{middle}<small>{rest.strip('()')}</small>")


def best(report: Report) -> Ratio | None:
    """The largest gain at the first token that the repeats can tell from none."""
    told = [each for each in report.ratios if each.quantity == "ttft" and each.figure.p5 > 1]
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
    columns = [
        name for name in ("vision", "prefill", "ttft", "decode") if any(name in e.figures for e in report.results)
    ]
    titles = [NAMES.get(name, name) + " ms" for name in columns]
    lines = [
        "| prompt | bundle | " + " | ".join(titles) + " | gain | bound |",
        "| --- | --- | " + " | ".join("---" for _ in titles) + " | --- | --- |",
    ]
    for result in report.results:
        ratio = report.ratio(result.runner, result.workload, "ttft")
        cells = [interval(result.figures.get(name)) for name in columns]
        gain, bound = ("", "") if ratio is None else (times_interval(ratio.figure), times(ratio.bound))
        lines.append("| " + " | ".join([result.workload, result.runner, *cells, gain, bound]) + " |")
    return "\n".join(lines)
