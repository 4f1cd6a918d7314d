"""The time to the first token by tokens of the prompt."""

from __future__ import annotations

from fastv_runtime.bench.analysis.metrics.base import Gain, Metric
from fastv_runtime.bench.models import Round


def _per_prompt_token(round_: Round) -> float:
    return round_.turn.ttft_ms / round_.turn.prompt_tokens


METRICS = (
    Metric(
        "prompt_token",
        "per prompt token",
        _per_prompt_token,
        gain=Gain("a prompt's token"),
        smallest_table="markdown",
    ),
)
