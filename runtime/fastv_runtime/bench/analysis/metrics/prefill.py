"""The prefill: prefix, select and suffix."""

from __future__ import annotations

from collections.abc import Sequence

from fastv_runtime.bench.analysis.bounds import prefill_bound
from fastv_runtime.bench.analysis.metrics.base import Gain, Metric, Pair
from fastv_runtime.bench.models import BundleFacts, Round

PREFILL = ("prefix", "select", "suffix")


def prefill_ms(round_: Round) -> float | None:
    """Milliseconds, of stages that are known; None without a suffix, which every prefill has."""
    stages = round_.turn.stages_ms
    return sum(stages.get(stage, 0.0) for stage in PREFILL) if "suffix" in stages else None


def bound(facts: BundleFacts, pairs: Sequence[Pair]) -> float:
    """What the FLOPs allow."""
    turn = pairs[0][1].turn
    return prefill_bound(facts, turn.prompt_tokens, turn.pruned_lengths)


METRICS = (
    Metric(
        "prefill",
        "prefill",
        prefill_ms,
        gain=Gain("the prefill", bound),
        judged=True,
        smallest_table="terminal",
    ),
)
