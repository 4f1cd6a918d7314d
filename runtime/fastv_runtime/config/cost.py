"""What a plan costs, by arithmetic alone: FLOPs, key-value cache, weights, buffers.

A multiply-add counts as one operation in the paper's formula; FLOPs here follow that convention, so that figures
compare with the paper's. The paper counts whole layers; the graphs run a layer's MLP on the rows that come after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fastv_runtime.config.lengths import Capacity, kept_count
from fastv_runtime.config.manifest import DecoderConfig
from fastv_runtime.config.plan import Plan

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Flops:
    """Operations of a prefill, counted in two ways."""

    paper: int
    """4nd^2 + 2n^2d + 2ndm per layer: FastV's own (arXiv 2403.06764, section 4.1), a plain two-matrix MLP."""
    gated: int
    """4nd^2 + 2n^2d + 3ndm with the real widths of grouped-query heads: what a Llama or Qwen layer does. Of several
    layers, each MLP on the rows of the next layer, the last on one: what the graphs do."""


def layer_flops(decoder: DecoderConfig, tokens: int) -> Flops:
    """Operations of one decoder layer over `tokens` rows."""
    n, d, m = tokens, decoder.hidden_size, decoder.intermediate_size
    queries = decoder.num_attention_heads * decoder.head_dim
    keys = decoder.num_key_value_heads * decoder.head_dim
    return Flops(
        paper=4 * n * d * d + 2 * n * n * d + 2 * n * d * m,
        gated=2 * n * d * queries + 2 * n * d * keys + 2 * n * n * queries + mlp_flops(decoder, n),
    )


def mlp_flops(decoder: DecoderConfig, tokens: int) -> int:
    """Operations of one layer's MLP over `tokens` rows."""
    return (3 if decoder.gated_mlp else 2) * tokens * decoder.hidden_size * decoder.intermediate_size


def decoder_flops(decoder: DecoderConfig, tokens_per_layer: Sequence[int]) -> Flops:
    """Operations of a prefill whose layers' attentions see the given numbers of tokens."""
    layers = [layer_flops(decoder, tokens) for tokens in tokens_per_layer]
    spared = sum(before - after for before, after in zip(tokens_per_layer, [*tokens_per_layer[1:], 1], strict=True))
    return Flops(sum(each.paper for each in layers), sum(each.gated for each in layers) - mlp_flops(decoder, spared))


def tokens_per_layer(decoder: DecoderConfig, cuts: Sequence[int], rows: Sequence[int]) -> list[int]:
    """Rows that each layer's attention prefills. cuts: K of each, ascending; rows: of the prompt, and after each."""
    bounds = (0, *cuts, decoder.num_hidden_layers)
    return [count for count, (start, stop) in zip(rows, pairwise(bounds), strict=True) for _ in range(stop - start)]


def cache_bytes(decoder: DecoderConfig, tokens_per_layer: Sequence[int], dtype: str) -> int:
    """Keys and values of the given numbers of tokens per layer."""
    row = 2 * decoder.num_key_value_heads * decoder.head_dim * BYTES[dtype]
    return row * sum(tokens_per_layer)


@dataclass(frozen=True)
class Cost:
    """A plan's cost for its nominal prompt: `max_text` text tokens and `max_visual` visual tokens."""

    tokens: int
    pruned_lengths: tuple[int, ...]
    """After each cut."""
    flops: Flops
    dense_flops: Flops
    cache_bytes: int
    """Keys and values held after prefill."""
    dense_cache_bytes: int
    cache_capacity_bytes: int
    """Keys and values allocated, room for new tokens included."""


def plan_cost(decoder: DecoderConfig, plan: Plan, capacity: Capacity) -> Cost:
    """Cost of one plan, next to the same model unpruned."""
    visual = plan.max_visual
    tokens = plan.max_text + visual
    pruned = tuple(plan.max_text + kept_count(visual, cut.keep) for cut in plan.cuts)
    rows = tokens_per_layer(decoder, plan.cut_layers, (tokens, *pruned))
    dense = [tokens] * decoder.num_hidden_layers
    allocated = tokens_per_layer(decoder, plan.cut_layers, capacity.keys)
    return Cost(
        tokens=tokens,
        pruned_lengths=pruned,
        flops=decoder_flops(decoder, rows),
        dense_flops=decoder_flops(decoder, dense),
        cache_bytes=cache_bytes(decoder, rows, plan.precision),
        dense_cache_bytes=cache_bytes(decoder, dense, plan.precision),
        cache_capacity_bytes=cache_bytes(decoder, allocated, plan.precision),
    )
