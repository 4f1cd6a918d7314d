"""Which visual tokens a ranker keeps, from what is known at layer K: what its `select` graph keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from fastv_export.rankers import RANKERS
from fastv_export.verify.choices import choose


@dataclass(frozen=True)
class Seen:
    """What rankers look at, of a prompt of S tokens."""

    scores: Float[torch.Tensor, " S"]
    """Softmax attention of the last row at layer K-1, mean over heads."""
    pre_rope: Float[torch.Tensor, " S"] | None
    """The same without rotary embedding, where a ranker asks for it."""
    hidden: Float[torch.Tensor, "S D"]
    """States after the attention of layer K-1."""
    visual: Bool[torch.Tensor, " S"]


def kept(ranker: str, seen: Seen, length: int) -> Int[torch.Tensor, " M"]:
    """Indices of the `length` tokens that stay, ascending. ranker: of `fastv_export.rankers.RANKERS`."""
    scores = seen.scores if RANKERS[ranker].rotary else seen.pre_rope
    assert scores is not None
    return choose(ranker, scores, seen.hidden, seen.visual, length)
