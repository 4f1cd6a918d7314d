"""What rankers read, by its definition in plain torch: from the attention weights that transformers returns,
and from the keys in its cache."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

from fastv_runtime.config.cuts import TEXT_ROWS, Signal

EARLIER: frozenset[Signal] = frozenset({"earlier_scores"})
"""Signals of the layer before the scored one."""


def attention_signals(
    weights: Float[torch.Tensor, "H S S"], rows: Int[torch.Tensor, " L"], *, earlier: bool = False
) -> dict[Signal, torch.Tensor]:
    """Signals of the L rows of a prompt that come to a cut, from the attention of all its S rows, in fp32.

    earlier: the weights are those of the layer before the scored one.
    """
    last = weights[:, -1, rows]
    if earlier:
        return {"earlier_scores": last.mean(0)}
    # A prompt of fewer rows has its first stand for those that are missing.
    asking = [rows[max(0, len(rows) - TEXT_ROWS + each)] for each in range(TEXT_ROWS)]
    by_rows = torch.stack([weights[:, row, rows].mean(0) for row in asking])
    return {"scores": last.mean(0), "head_scores": last, "row_scores": by_rows}


def key_signals(keys: Float[torch.Tensor, "H S Dh"], rows: Int[torch.Tensor, " L"]) -> dict[Signal, torch.Tensor]:
    """The same, from the scored layer's keys of all S rows."""
    return {"key_norms": torch.linalg.vector_norm(keys[:, rows].float(), dim=-1).mean(0)}
