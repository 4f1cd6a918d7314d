"""Statistics of repeats: the middle, and between what values nine of ten lie. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from fastv_runtime.bench.models import Figure


def figure(values: Sequence[float]) -> Figure:
    """Median, 5th and 95th percentile (interpolated between the values, never beyond them). ValueError for none."""
    if not values:
        raise ValueError("no values")
    cuts = quantiles(values, n=20, method="inclusive") if len(values) > 1 else [values[0]] * 19
    return Figure(median=median(values), p5=cuts[0], p95=cuts[-1], runs=len(values))


def spread(figure: Figure) -> float:
    """Width of the interval relative to the median."""
    return (figure.p95 - figure.p5) / figure.median if figure.median else 0.0
