"""When a machine is too noisy to be believed, and the limits for it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fastv_runtime.bench.analysis.metrics import METRICS
from fastv_runtime.bench.analysis.statistics import spread
from fastv_runtime.bench.machine.conditions import Conditions
from fastv_runtime.bench.models import Result

LOAD = 0.05
"""Of the processors' time for others: a product waits for its slowest thread, so that figures are off by about as much,
and a few percent is what a report is asked to tell apart."""

SPREAD = 0.10
"""Of the median, between p5 and p95: ratios below 1.1 could then be chance."""


def noise(conditions: Conditions, results: Sequence[Result]) -> list[str]:
    """Why figures should not be trusted, a line for each reason."""
    lines = []
    if conditions.load_of_others is not None and conditions.load_of_others > LOAD:
        lines.append(
            f"other programs took {conditions.load_of_others:.0%} of the processors' time (quiet: at most {LOAD:.0%})"
        )
    for kind, count in conditions.throttled.items():
        lines.append(f"heat or current slowed the machine: {kind}, {count} events")
    wide = [
        (spread(figure), result, metric.name)
        for result in results
        for metric in METRICS
        if metric.leading and (figure := result.figures.get(metric.name)) and spread(figure) > SPREAD
    ]
    if wide:
        worst, result, name = max(wide, key=lambda each: each[0])
        lines.append(
            f"repeats differ: {len(wide)} of the figures spread over more than {SPREAD:.0%} of their median, the worst "
            f"({name} of {result.runner}, {result.workload}) over {worst:.0%}"
        )
    return lines
