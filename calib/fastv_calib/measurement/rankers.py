"""Which visual tokens a ranker keeps, from what is known at layer K: what its `select` graph keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from fastv_export.rankers import RANKERS
from fastv_export.rankers.base import Seen
from fastv_export.verify.choices import choose
from fastv_runtime.config.cuts import Signal


@dataclass(frozen=True)
class SeenByAll:
    """What any ranker looks at, of a prompt of S tokens."""

    signals: Mapping[Signal, torch.Tensor]
    pre_rope: Float[torch.Tensor, " S"] | None
    """Scores without rotary embedding, where a ranker asks for them."""
    hidden: Float[torch.Tensor, "S D"]
    """States after the attention of layer K-1."""
    visual: Bool[torch.Tensor, " S"]


def kept(ranker: str, seen: SeenByAll, length: int) -> Int[torch.Tensor, " M"]:
    """Indices of the `length` tokens that stay, ascending. ranker: of `fastv_export.rankers.RANKERS`."""
    signals = dict(seen.signals)
    if not RANKERS[ranker].rotary:
        assert seen.pre_rope is not None
        signals["scores"] = seen.pre_rope
    return choose(ranker, Seen(seen.hidden, seen.visual, signals), length)
