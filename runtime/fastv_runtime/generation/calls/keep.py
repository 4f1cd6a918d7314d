"""How many visual tokens stay: a fraction of them, or of each prompt as few as hold a share of attention. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastv_runtime.config.lengths import Capacity, Keeps, check_keep, kept_count, pruned_lengths, text_room
from fastv_runtime.config.plan import SHARE, Plan
from fastv_runtime.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

AUTO = "auto"
Keep = float | Literal["auto"]
"""A fraction of the prompt's visual tokens, or `auto`: as few of each prompt as hold a share of attention."""


@dataclass(frozen=True)
class AskedKeep:
    """What was asked of one prompt."""

    keep: float | None
    """Fraction of visual tokens that the last cut leaves; with a `share`, leaves at most. None: the plan's."""
    share: float | None
    """Of the attention that the visual tokens at a cut get, what those that stay hold. None: `keep` alone decides."""
    cuts: tuple[float, ...] | None = None
    """Fraction that each cut leaves, of which `keep` is the last. None: what `keep` and the plan say."""

    @property
    def keeps(self) -> Keeps:
        """What is asked of the cuts, as `config.lengths.keeps` takes it."""
        return self.keep if self.cuts is None else self.cuts

    def lengths(
        self, plan: Plan, text: int, visual: int, policy: str, capacity: Capacity
    ) -> tuple[tuple[int, ...], HeldLengths | None]:
        """M after each cut of a prompt, and what shortens it by scores where a share is asked for.

        Raises UserError as `pruned_lengths` does, whatever the scores will be.
        """
        most = pruned_lengths(plan, text, visual, policy, capacity, self.keeps)
        return most, None if self.share is None else HeldLengths(plan, self.share, text, visual, policy, most)


def read_keep(plan: Plan, keep: Keep | None, share: float | None, cuts: Sequence[float] | None = None) -> AskedKeep:
    """What a prompt's `keep` and `share`, or its `cuts`, come to with the plan of a bundle; None leaves it to the plan.

    A number alone is that fraction of every prompt, whatever the plan's share. A share, and `auto`, which is the plan's
    share or SHARE, keep as few as hold it, and the number or the plan's keep at most. `cuts` are a number for each cut.
    Raises UserError.
    """
    if cuts is not None:
        for name, value in (("`keep`", keep), ("`share`", share)):
            if value is not None:
                raise UserError(f"`cuts`: says what each cut keeps, and {name} too: leave one of them out")
        fractions = _fractions(cuts)
        check_keep(plan, fractions)
        return AskedKeep(fractions[-1], None, fractions)
    if isinstance(keep, str) and keep != AUTO:
        raise UserError(f"`keep` {keep!r}: must be a number above 0 and at most 1, or 'auto'")
    number = None if isinstance(keep, str) else keep
    check_keep(plan, number)
    if share is not None and (isinstance(share, bool) or not isinstance(share, Real) or not 0 < share < 1):
        raise UserError(f"`share` {share!r}: must be a number above 0 and below 1, of the visual tokens' attention")
    if share is None and number is None:
        share = plan.share if plan.share is not None or keep is None else SHARE
    if share is None:
        return AskedKeep(number, None)
    name = "`keep` auto" if keep == AUTO else f"`share` {share:g}"
    if not plan.prunes:
        raise UserError(f"{name}: this bundle was exported without pruning: leave it out")
    for cut in plan.cuts:
        if "scores" not in cut.signals:
            raise UserError(
                f"{name}: is of the last prompt token's scores, which ranker {cut.ranker}, at layer {cut.layer} of "
                "this bundle, does not read: give a number as `keep`, or export with another `export.ranker`"
            )
    return AskedKeep(number, share)


def _fractions(cuts: Any) -> tuple[float, ...]:
    """Raises UserError for what is no list, or empty."""
    if isinstance(cuts, (str, bytes)) or not isinstance(cuts, Iterable) or not (found := tuple(cuts)):
        raise UserError("`cuts`: must be a list of numbers above 0 and at most 1, one for each cut")
    return found


def held_count(scores: Float[np.ndarray, " N"], share: float) -> int:
    """The fewest of N >= 1 tokens whose scores (at least 0) sum to `share` (below 1) of all scores."""
    sums = np.cumsum(np.sort(scores.astype(np.float64))[::-1])
    return min(1 + int(np.searchsorted(sums, share * sums[-1])), scores.size)


def in_steps(count: int, visual: int, steps: int) -> int:
    """The least of 1/steps, 2/steps, ... of `visual` tokens, each rounded, that is not below `count` (1 to visual)."""
    return next(
        found for step in range(1, steps + 1) if (found := kept_count(visual, step / steps)) >= min(count, visual)
    )


@dataclass
class HeldLengths:
    """M after each cut of one prompt, which scores decide: asked cut by cut, as the prompt comes to them."""

    plan: Plan
    share: float
    text: int
    visual: int
    policy: str
    most: Sequence[int]
    """M after each cut by the plan's `keep`."""
    held: list[int] = field(default_factory=list)
    """Visual tokens that hold the share, of those that came to each cut so far."""

    def __call__(self, scores: Float[np.ndarray, " S"], prunable: Bool[np.ndarray, " S"]) -> int:
        """M after the next cut, of the scores of the S rows that come to it and which of them are visual.

        In steps of the plan, with the policy's room for text, and never more than `most`, nor than come to it.
        """
        most = min(self.most[len(self.held)], scores.size)
        visual = scores[prunable]
        self.held.append(held_count(visual, self.share) if visual.size else 0)
        kept = in_steps(self.held[-1], self.visual, self.plan.keep_steps) if visual.size else 0
        return min(most, text_room(self.plan, self.text, self.policy) + kept)
