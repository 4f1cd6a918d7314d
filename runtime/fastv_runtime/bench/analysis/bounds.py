"""What pruning can gain at most, by arithmetic. Pure.

Prefill: FLOPs of the layers (`cost.py`, gated MLP). Time to the first token: the baseline's, with its prefill divided
by that bound; nothing else gets faster. Decode: bytes that a token reads, all weights and its cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastv_runtime.bench.models import BundleFacts
from fastv_runtime.config.cost import cache_bytes, decoder_flops, tokens_per_layer

WORTH = 1.02
"""A bound below it is next to nothing: what share of it was reached would be a share of the noise."""

MOST_REACHED = 1.25
"""Fewer rows may fit a processor's caches better, and gain a little more than their FLOPs; not more than this."""


def prefill_bound(facts: BundleFacts, tokens: int, pruned: Sequence[int]) -> float:
    """FLOPs of a dense prefill by those of the plan's. `pruned`: tokens after each cut."""
    decoder = facts.decoder
    dense = decoder_flops(decoder, [tokens] * decoder.num_hidden_layers).gated
    return dense / decoder_flops(decoder, tokens_per_layer(decoder, facts.plan.cut_layers, (tokens, *pruned))).gated


def ttft_bound(prefill: float, dense_ttft: float, dense_prefill: float) -> float:
    """The bound of the first token, given that of the prefill and the baseline's measured times."""
    return dense_ttft / (dense_ttft - dense_prefill * (1 - 1 / prefill))


def decode_bound(facts: BundleFacts, tokens: int, pruned: Sequence[int]) -> float:
    """Bytes that a dense step reads by those of the plan's, right after the prompt."""
    decoder, plan = facts.decoder, facts.plan
    rows = tokens_per_layer(decoder, plan.cut_layers, (tokens, *pruned))
    dense = cache_bytes(decoder, [tokens] * decoder.num_hidden_layers, plan.precision)
    return (facts.decoder_bytes + dense) / (facts.decoder_bytes + cache_bytes(decoder, rows, plan.precision))


def reached(ratio: float, bound: float) -> float | None:
    """Share of the saving that `bound` allows which `ratio` is; negative where time was lost."""
    return (1 - 1 / ratio) / (1 - 1 / bound) if bound >= WORTH else None
