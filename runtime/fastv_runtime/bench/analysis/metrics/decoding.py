"""Decoding, after the first token: time per token, and tokens per second."""

from __future__ import annotations

from collections.abc import Sequence

from fastv_runtime.bench.analysis.bounds import decode_bound
from fastv_runtime.bench.analysis.metrics.base import Gain, Metric, Pair
from fastv_runtime.bench.models import BundleFacts, Round


def _per_token(round_: Round) -> float | None:
    return round_.turn.decode_ms or None


def _per_second(round_: Round) -> float | None:
    return 1000 / round_.turn.decode_ms if round_.turn.decode_ms else None


def _bound(facts: BundleFacts, pairs: Sequence[Pair]) -> float:
    """What the bytes that a token reads allow."""
    turn = pairs[0][1].turn
    return decode_bound(facts, turn.prompt_tokens, turn.pruned_lengths)


METRICS = (
    Metric(
        "decode",
        "per token",
        _per_token,
        gain=Gain("a decoded token", _bound, "it reads all weights, and pruning shortens the cache alone"),
        judged=True,
        leading=True,
        smallest_table="terminal",
    ),
    # Not compared nor judged: it says the same again.
    Metric("tokens_per_second", "tokens/s", _per_second, "tokens/s"),
)
