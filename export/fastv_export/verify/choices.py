"""What rankers must choose: their definitions in plain torch, which golden vectors and calibration go by."""

from __future__ import annotations

import torch
from jaxtyping import Int

from fastv_export.rankers import RANKERS
from fastv_export.rankers.base import Seen
from fastv_export.verify.reference import select


def choose(
    ranker: str,
    seen: Seen,
    length: int,
) -> Int[torch.Tensor, " M"]:
    """Rows that stay, ascending. ranker: of `rankers.RANKERS`."""
    if not seen.prunable.any():
        return torch.arange(length)
    return select(RANKERS[ranker].ranks(seen, length), seen.prunable, length)
