"""The energy of a whole turn, where the machine has a meter."""

from __future__ import annotations

from fastv_runtime.bench.analysis.metrics.base import Gain, Metric
from fastv_runtime.bench.models import Round


def _joules(round_: Round) -> float | None:
    return round_.joules


METRICS = (Metric("joules", "joules", _joules, "J", gain=Gain("the energy"), judged=True),)
