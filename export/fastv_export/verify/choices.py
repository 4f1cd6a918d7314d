"""What rankers must choose, in plain torch: the definitions that their graphs are compared with by golden vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int

from fastv_export.rankers.dart import PIVOTS
from fastv_export.verify.reference import select

Definition = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(scores [V], hidden [V, D] of the prunable tokens, how many of them stay) -> their ranks [V]."""


def choose(
    ranker: str,
    scores: Float[torch.Tensor, " S"],
    hidden: Float[torch.Tensor, "S D"],
    prunable: Bool[torch.Tensor, " S"],
    length: int,
) -> Int[torch.Tensor, " M"]:
    """Indices that stay, ascending. A ranker without a definition here chooses by score."""
    ranks = scores.clone()
    visual = prunable.nonzero()[:, 0]
    if ranker in DEFINITIONS and len(visual):
        staying = length - int((~prunable).sum())
        ranks[visual] = DEFINITIONS[ranker](scores[visual], hidden[visual], staying)
    return select(ranks, prunable, length)


def _uniform(scores: torch.Tensor, hidden: torch.Tensor, staying: int) -> torch.Tensor:
    ranks = torch.zeros(len(scores))
    ranks[_middles(len(scores), staying)] = 1
    return ranks


def _fastv_uniform(scores: torch.Tensor, hidden: torch.Tensor, staying: int) -> torch.Tensor:
    ranks = torch.zeros(len(scores))
    ranks[scores.argsort(descending=True, stable=True)[: staying - staying // 2]] = 1
    left = (ranks == 0).nonzero()[:, 0]
    ranks[left[_middles(len(left), staying // 2)]] = 1
    return ranks


def _dart(scores: torch.Tensor, hidden: torch.Tensor, staying: int) -> torch.Tensor:
    pivots = hidden.norm(dim=1).argsort(descending=True, stable=True)[:PIVOTS]
    likeness = torch.cosine_similarity(hidden[:, None], hidden[None, pivots], dim=-1)
    ranks = -likeness.amax(dim=1)
    ranks[pivots] = 2
    return ranks


def _middles(members: int, count: int) -> list[int]:
    """Places of the members in the middle of `count` equal stretches."""
    return [-(-(2 * j + 1) * members // (2 * count)) - 1 for j in range(count)]


DEFINITIONS: dict[str, Definition] = {"uniform": _uniform, "fastv+uniform": _fastv_uniform, "dart": _dart}
