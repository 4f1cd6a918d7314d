"""The time to the first token, which pruning is for: the headline, the gain and the bound of a table are its own."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from fastv_runtime.bench.analysis.bounds import ttft_bound
from fastv_runtime.bench.analysis.metrics import prefill
from fastv_runtime.bench.analysis.metrics.base import Gain, Metric, Pair
from fastv_runtime.bench.models import BundleFacts, Round


def _ttft(round_: Round) -> float:
    return round_.turn.ttft_ms


def _bound(facts: BundleFacts, pairs: Sequence[Pair]) -> float | None:
    """The baseline's time, with its prefill divided by that one's bound; None where the prefill is not known."""
    prefills = [ms for dense, _ in pairs if (ms := prefill.prefill_ms(dense)) is not None]
    if len(prefills) < len(pairs):
        return None
    return ttft_bound(prefill.bound(facts, pairs), median(_ttft(dense) for dense, _ in pairs), median(prefills))


TTFT = Metric(
    "ttft",
    "first token",
    _ttft,
    gain=Gain("the first token", _bound),
    judged=True,
    leading=True,
    smallest_table="terminal",
)

METRICS = (TTFT,)
