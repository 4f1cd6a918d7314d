"""Which visual tokens a ranker keeps, from what is known at layer K: what its `select` graph keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from fastv_export.rankers import RANKERS
from fastv_export.rankers.base import Seen
from fastv_export.verify.choices import choose
from fastv_export.verify.signals import EARLIER
from fastv_runtime.config.cuts import Signal


@dataclass(frozen=True)
class SeenByAll:
    """What any ranker looks at, of the L rows of a prompt that come to a cut."""

    signals: Mapping[Signal, torch.Tensor]
    unrotated: Mapping[Signal, torch.Tensor]
    """Those that a ranker wants without rotary embedding."""
    hidden: Float[torch.Tensor, "L D"]
    """States after the attention of layer K-1."""
    visual: Bool[torch.Tensor, " L"]


@dataclass(frozen=True)
class Looks:
    """What is to be observed before a cut."""

    signals: frozenset[Signal]
    unrotated: frozenset[Signal]

    @classmethod
    def of(cls, rankers: Iterable[str]) -> Looks:
        """What rankers, of `fastv_export.rankers.RANKERS`, read."""
        read: dict[bool, set[Signal]] = {True: set(), False: set()}
        for name in rankers:
            read[RANKERS[name].rotary] |= set(RANKERS[name].signals)
        return cls(frozenset(read[True]), frozenset(read[False]))

    @property
    def earlier(self) -> bool:
        """Whether layer K-2 has a part in it."""
        return bool(EARLIER & (self.signals | self.unrotated))


def kept(ranker: str, seen: SeenByAll, length: int) -> Int[torch.Tensor, " M"]:
    """Which `length` of the rows stay, ascending. ranker: of `fastv_export.rankers.RANKERS`."""
    signals = dict(seen.signals if RANKERS[ranker].rotary else {**seen.signals, **seen.unrotated})
    return choose(ranker, Seen(seen.hidden, seen.visual, signals), length)
