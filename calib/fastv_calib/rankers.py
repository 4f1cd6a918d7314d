"""Rankers as the sweep calls them: which visual tokens stay, from what is known at layer K.

Each computes what the `select` graph of the same name computes (`fastv_export.select_graph`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Seen:
    """What a ranker may look at, of a prompt of S tokens."""

    scores: Float[torch.Tensor, " S"]
    """Softmax attention of the last row at layer K-1, mean over heads."""
    hidden: Float[torch.Tensor, "S D"]
    """Input of layer K."""
    visual: Bool[torch.Tensor, " S"]


class Ranker(Protocol):
    """Ranks of all tokens, of which those of visual tokens are read: the highest stay, ties go to the lower index."""

    def __call__(self, seen: Seen, /) -> Float[torch.Tensor, " S"]: ...


def fastv(seen: Seen) -> Float[torch.Tensor, " S"]:
    """The paper's: the score is the rank."""
    return seen.scores


def random(seen: Seen) -> Float[torch.Tensor, " S"]:
    """A control that knows nothing: noise by index, seeded by the prompt's first score."""
    index = torch.arange(seen.scores.numel(), dtype=torch.float32)
    noise = torch.sin(index * 12.9898 + seen.scores[0] * 78.233e4) * 43758.5453
    return noise - noise.floor()


RANKERS: Mapping[str, Ranker] = {"fastv": fastv, "random": random}
CONTROLS = frozenset({"random"})
"""Measured to compare with; never chosen."""
