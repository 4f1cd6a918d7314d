"""Attention and cache as the canonical graph writes them: `Attention` and `TensorScatter` of opset 24.

Registered with transformers, so that its own decoder layers emit these operators when they are traced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int

from fastv_export.hf import Attention, LayerCache, register_attention
from fastv_runtime.config.cuts import Signal

IMPLEMENTATION = "fastv_onnx"
"""Name of the attention implementation in transformers' registry."""

Cache = tuple[Float[torch.Tensor, "1 Hkv C Dh"], Float[torch.Tensor, "1 Hkv C Dh"]]
"""Keys and values of one layer, at full capacity."""


class StaticCache(LayerCache):
    """Rows are scattered into buffers of fixed capacity.

    Also where the scores are taken: the keys of the rows at hand pass through here before they are mixed with the
    cache.
    """

    def __init__(self, past: list[Cache], write_index: Int[torch.Tensor, " 1"], first_layer: int):
        self._past = past
        self._write_index = write_index
        self._first_layer = first_layer
        self.new_key: torch.Tensor | None = None
        self.present: list[Cache] = []

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Cache:
        """Scatter new rows [1, Hkv, S, Dh] at the write index; returns the whole buffers."""
        past_key, past_value = self._past[layer - self._first_layer]
        self.new_key = key
        present = (self._scatter(past_key, key), self._scatter(past_value, value))
        self.present.append(present)
        return present

    def _scatter(self, past: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return torch.onnx.ops.symbolic(
            "TensorScatter",
            [past, new, self._write_index],
            {"axis": -2, "mode": "linear"},
            dtype=past.dtype,
            shape=past.shape,
            version=24,
        )


class SignalRecorder:
    """Computes what a ranker reads of the scored layer and the one before, as their attention is traced."""

    def __init__(self, signals: Sequence[Signal], layer: int, cache: StaticCache):
        self._signals = signals
        self._layer = layer
        self._cache = cache
        self.found: dict[Signal, torch.Tensor] = {}

    def record(self, attention: Attention) -> None:
        key = self._cache.new_key
        assert key is not None
        if attention.layer == self._layer and "scores" in self._signals:
            self.found["scores"] = last_row_scores(attention.query, key, attention.scaling)


def last_row_scores(
    query: Float[torch.Tensor, "1 Hq S Dh"], key: Float[torch.Tensor, "1 Hkv S Dh"], scaling: float
) -> Float[torch.Tensor, "1 S"]:
    """Softmax attention of the last query row over the same S keys, mean over heads, in fp32.

    Only that row is computed, never an S x S matrix. It needs no mask: the last row sees every key. FastV's score
    (arXiv 2403.06764, as the authors' code has it).
    """
    heads, kv_heads, width = query.shape[1], key.shape[1], query.shape[3]
    last = query[:, :, -1:, :].reshape(1, kv_heads, heads // kv_heads, width)
    weights = torch.softmax((last @ key.transpose(2, 3) * scaling).float(), dim=-1)
    return weights.mean(dim=(1, 2))


def visibility(rows: int, capacity: int, write_index: Int[torch.Tensor, " 1"]) -> Bool[torch.Tensor, "1 1 S C"]:
    """Key j is visible to row i when j <= write_index + i."""
    return (torch.arange(capacity)[None, :] <= write_index[:, None] + torch.arange(rows)[:, None])[None, None]


def onnx_attention(attention: Attention) -> Float[torch.Tensor, "1 S Hq Dh"]:
    """One ONNX `Attention` with an explicit mask."""
    recorder = attention.extra.get("recorder")
    if recorder is not None:
        recorder.record(attention)
    output = torch.onnx.ops.attention(
        attention.query, attention.key, attention.value, attention.mask, scale=attention.scaling
    )[0]
    return output.transpose(1, 2)


def register() -> None:
    """Make the implementation known to transformers."""
    register_attention(IMPLEMENTATION, onnx_attention, known=frozenset({"recorder"}))
