"""What rankers must choose: their definitions in plain torch, which golden vectors and calibration go by."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int

from fastv_export.rankers import RANKERS
from fastv_export.verify.reference import select


def choose(
    ranker: str,
    scores: Float[torch.Tensor, " S"],
    hidden: Float[torch.Tensor, "S D"],
    prunable: Bool[torch.Tensor, " S"],
    length: int,
) -> Int[torch.Tensor, " M"]:
    """Indices that stay, ascending. ranker: of `rankers.RANKERS`."""
    ranks = RANKERS[ranker].ranks(scores, hidden, prunable, length) if prunable.any() else scores
    return select(ranks, prunable, length)
