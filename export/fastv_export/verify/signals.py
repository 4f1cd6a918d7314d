"""What rankers read, by its definition in plain torch: from the attention weights that transformers returns."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

from fastv_runtime.config.cuts import Signal

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
    return {"scores": last.mean(0)}
