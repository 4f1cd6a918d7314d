"""The stages of the time to the first token, and what of it belongs to none."""

from __future__ import annotations

from functools import partial

from fastv_runtime.bench.analysis.metrics.base import Metric
from fastv_runtime.bench.models import Round
from fastv_runtime.generation.clock import STAGES


def _stage(name: str, round_: Round) -> float | None:
    return round_.turn.stages_ms.get(name)


def _rest(round_: Round) -> float | None:
    stages = round_.turn.stages_ms
    return round_.turn.ttft_ms - sum(stages.values()) if set(STAGES) <= set(stages) else None


METRICS = (
    *(
        # The tower is the one stage that is large and no part of the prefill.
        Metric(name, name, partial(_stage, name), judged=True, smallest_table="markdown")
        if name == "vision"
        else Metric(name, name, partial(_stage, name))
        for name in STAGES
    ),
    Metric("rest", "rest", _rest),
)
