"""The metrics of a report: what is computed of every round, shown, compared and judged.

To add one: write a file here whose `METRICS` has it, and name that file below.
"""

from __future__ import annotations

from importlib import import_module

from fastv_runtime.bench.analysis.metrics.base import Gain, Metric, Pair
from fastv_runtime.bench.analysis.metrics.first_token import TTFT
from fastv_runtime.bench.models import Round

FILES = (
    "stages",
    "prefill",
    "first_token",
    "decoding",
    "energy",
)
"""In the order of a table's columns."""

METRICS: tuple[Metric, ...] = tuple(metric for file in FILES for metric in import_module(f"{__name__}.{file}").METRICS)

HEADLINE_FIRST = (TTFT, *(metric for metric in METRICS if metric is not TTFT))
"""In the order of charts and words: the first token, which pruning is for, before all others."""

QUANTITIES = tuple(metric.name for metric in METRICS)
"""Their names in a report."""


def quantities(round_: Round) -> dict[str, float]:
    """What a round says of each metric that it knows, by names of QUANTITIES."""
    values = {metric.name: metric.measured(round_) for metric in METRICS}
    return {name: value for name, value in values.items() if value is not None}


__all__ = ["HEADLINE_FIRST", "METRICS", "QUANTITIES", "TTFT", "Gain", "Metric", "Pair", "quantities"]
