"""Plans as a calibration tells them apart: where visual tokens are dropped, by what, and the precision of weights."""

from __future__ import annotations

from fastv_export.rankers import RANKERS
from fastv_runtime.config.base import StrictModel
from fastv_runtime.config.cuts import Cut


class PointCut(StrictModel):
    """One cut of a plan."""

    layer: int
    """K."""
    keep: float
    """Fraction of the prompt's visual tokens, whatever earlier cuts left of them."""
    ranker: str

    def __str__(self) -> str:
        return f"{self.layer}:{self.keep:g}:{self.ranker}"


Chain = tuple[PointCut, ...]
"""Cuts from the first layer to the last."""


class KeptPoint(StrictModel):
    """One plan. Without cuts it is the unpruned model."""

    cuts: Chain
    precision: str = "fp32"
    """`fp32`: weights as they are stored; or one of `precisions.FEW_BITS`."""

    @property
    def layers(self) -> tuple[int, ...]:
        """K of each cut."""
        return tuple(cut.layer for cut in self.cuts)

    @property
    def ranker(self) -> str | None:
        """What chooses at every cut; None for the unpruned model, and where cuts differ in it."""
        rankers = {cut.ranker for cut in self.cuts}
        return rankers.pop() if len(rankers) == 1 else None

    def ranked_by(self, ranker: str) -> KeptPoint:
        """The same plan with another ranker at every cut."""
        return self.model_copy(update={"cuts": tuple(cut.model_copy(update={"ranker": ranker}) for cut in self.cuts)})

    def plan_cuts(self) -> tuple[Cut, ...]:
        """As a plan has them."""
        return tuple(
            Cut(
                layer=cut.layer,
                keep=cut.keep,
                ranker=cut.ranker,
                signals=RANKERS[cut.ranker].signals,
                rotary=RANKERS[cut.ranker].rotary,
            )
            for cut in self.cuts
        )

    def __str__(self) -> str:
        """`K=2 keep 0.5 fastv`; of several cuts as `cuts` takes them, `4:0.5+10:0.15 fastv`."""
        plan = _words(self.cuts, self.ranker)
        return plan if self.precision == "fp32" else f"{plan} {self.precision}"


def said(cuts: Chain) -> str:
    """As the option `cuts` takes a chain."""
    return "+".join(map(str, cuts))


def _words(cuts: Chain, ranker: str | None) -> str:
    if not cuts:
        return "unpruned"
    if len(cuts) == 1:
        return f"K={cuts[0].layer} keep {cuts[0].keep:g} {ranker}"
    if ranker is None:
        return said(cuts)
    return f"{'+'.join(f'{cut.layer}:{cut.keep:g}' for cut in cuts)} {ranker}"
