"""Statistics of repeats: the middle, and between what values nine of ten lie. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from fastv_runtime.bench.models import Figure


def figure(values: Sequence[float]) -> Figure:
    """Median, 5th and 95th percentile (interpolated between the values). ValueError for none."""
    if not values:
        raise ValueError("no values")
    cuts = quantiles(values, n=20, method="inclusive") if len(values) > 1 else [values[0]] * 19
    middle = median(values)
    # Interpolation rounds: equal values could end up outside of themselves.
    return Figure(median=middle, p5=min(cuts[0], middle), p95=max(cuts[-1], middle), runs=len(values))


def spread(figure: Figure) -> float:
    """Width of the interval relative to the median."""
    return (figure.p95 - figure.p5) / figure.median if figure.median else 0.0
