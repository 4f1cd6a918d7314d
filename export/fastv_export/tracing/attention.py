"""Attention and cache as the canonical graph writes them: `Attention` and `TensorScatter` of opset 24.

Registered with transformers, so that its own decoder layers emit these operators when they are traced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int

from fastv_export.hf import Attention, LayerCache, register_attention
from fastv_runtime.config.cuts import TEXT_ROWS, Signal

IMPLEMENTATION = "fastv_onnx"
"""Name of the attention implementation in transformers' registry."""

Cache = tuple[Float[torch.Tensor, "1 Hkv C Dh"], Float[torch.Tensor, "1 Hkv C Dh"]]
"""Keys and values of one layer, at full capacity."""


class StaticCache(LayerCache):
    """Rows are scattered into buffers of fixed capacity.

    Also where what rankers read of keys is taken: those of the rows at hand pass through here before they are mixed
    with the cache.
    """

    def __init__(self, past: list[Cache], write_index: Int[torch.Tensor, " 1"], first_layer: int):
        self._past = past
        self.write_index = write_index
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
            [past, new, self.write_index],
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
        query, cached, scaling, start = attention.query, attention.key, attention.scaling, self._cache.write_index
        if attention.layer == self._layer - 1 and "earlier_scores" in self._signals:
            self.found["earlier_scores"] = last_row_scores(query, cached, scaling, start)
        if attention.layer != self._layer:
            return
        if "scores" in self._signals:
            self.found["scores"] = last_row_scores(query, cached, scaling, start)
        if "head_scores" in self._signals:
            self.found["head_scores"] = last_row_head_scores(query, cached, scaling, start)
        if "row_scores" in self._signals:
            self.found["row_scores"] = last_rows_scores(query, cached, scaling, start)
        if "key_norms" in self._signals:
            assert self._cache.new_key is not None
            self.found["key_norms"] = key_norms(self._cache.new_key)


def last_row_scores(
    query: Float[torch.Tensor, "1 Hq S Dh"],
    key: Float[torch.Tensor, "1 Hkv C Dh"],
    scaling: float,
    write_index: Int[torch.Tensor, " 1"] | None = None,
) -> Float[torch.Tensor, "1 C"]:
    """Softmax attention of the last of S query rows over the keys that it sees, mean over heads, in fp32.

    Only that row is computed, never an S x S matrix. FastV's score (arXiv 2403.06764, as the authors' code has it).
    write_index: key is a cache of C keys, of which the rows at hand are those from here on; 0 for keys behind them.
    None: key is of the rows at hand alone, C = S.
    """
    return _last_row_weights(query, key, scaling, write_index).mean(dim=(1, 2))


def last_row_head_scores(
    query: Float[torch.Tensor, "1 Hq S Dh"],
    key: Float[torch.Tensor, "1 Hkv C Dh"],
    scaling: float,
    write_index: Int[torch.Tensor, " 1"],
) -> Float[torch.Tensor, "1 Hq C"]:
    """The same of each head."""
    return _last_row_weights(query, key, scaling, write_index).flatten(1, 2)


def _last_row_weights(
    query: torch.Tensor, key: torch.Tensor, scaling: float, write_index: torch.Tensor | None
) -> Float[torch.Tensor, "1 Hkv G C"]:
    heads, kv_heads, width = query.shape[1], key.shape[1], query.shape[3]
    last = query[:, :, -1:, :].reshape(1, kv_heads, heads // kv_heads, width)
    logits = (last @ key.transpose(2, 3) * scaling).float()
    if write_index is not None:
        seen = torch.arange(key.shape[2]) < write_index + query.shape[2]
        logits = torch.where(seen, logits, float("-inf"))
    return torch.softmax(logits, dim=-1)


def last_rows_scores(
    query: Float[torch.Tensor, "1 Hq S Dh"],
    key: Float[torch.Tensor, "1 Hkv C Dh"],
    scaling: float,
    write_index: Int[torch.Tensor, " 1"],
) -> Float[torch.Tensor, "1 R C"]:
    """Softmax attention of the last R = TEXT_ROWS query rows over the keys up to each, mean over heads, in fp32.

    key, write_index: as for `last_row_scores`. Of fewer than R rows at hand, the first stands for those that are
    missing: the shape is fixed, in decode too.
    """
    heads, kv_heads, width, rows = query.shape[1], key.shape[1], query.shape[3], query.shape[2]
    # maximum, since TensorRT's Clip takes no integers.
    index = torch.maximum(torch.arange(TEXT_ROWS) + (rows - TEXT_ROWS), torch.zeros(TEXT_ROWS, dtype=torch.int64))
    last = query.index_select(2, index).reshape(1, kv_heads, heads // kv_heads * TEXT_ROWS, width)
    logits = (last @ key.transpose(2, 3) * scaling).float().reshape(1, heads, TEXT_ROWS, key.shape[2])
    visible = torch.arange(key.shape[2])[None, :] <= (write_index + index)[:, None]
    return torch.softmax(torch.where(visible, logits, float("-inf")), dim=-1).mean(dim=1)


def key_norms(key: Float[torch.Tensor, "1 Hkv S Dh"]) -> Float[torch.Tensor, "1 S"]:
    """Euclidean norm of each row's keys, mean over their heads, in fp32. Rotary embedding changes none."""
    wide = key.float()
    return (wide * wide).sum(dim=-1).sqrt().mean(dim=1)


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
