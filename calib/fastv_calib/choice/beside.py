"""What a plan is shown beside: the best plan with one cut, and baselines that cost about as much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastv_calib.choice.choose import best, choose
from fastv_export.calibration import BASELINES, BaselineFigures, Calibration, Estimate, Figures, PlanFigures


@dataclass(frozen=True)
class Beside:
    """Of one plan of a calibration."""

    plan: PlanFigures
    single: PlanFigures | None
    """The cheapest plan with one cut that meets the objectives, or else the one that agrees most often; None where the
    plan is such a one itself, or none was measured."""
    baselines: tuple[BaselineFigures, ...]
    """Of each kind the one whose FLOPs are nearest."""

    def rows(self) -> Iterator[tuple[str, Figures]]:
        """Names and figures, the plan first."""
        yield str(self.plan.point), self.plan
        if self.single is not None:
            yield f"{self.single.point} (one cut)", self.single
        for each in self.baselines:
            yield str(each), each


def beside(calibration: Calibration, plan: PlanFigures) -> Beside:
    single = None
    if len(plan.point.cuts) != 1:
        once = [each for each in calibration.plans if len(each.point.cuts) == 1]
        index = choose(once, calibration.objectives)
        single = once[best(once) if index is None else index] if once else None
    nearest = []
    for name in BASELINES:
        known = [each for each in calibration.baselines if each.name == name]
        if known:
            nearest.append(min(known, key=lambda each: abs(each.flops - plan.flops)))
    return Beside(plan, single, tuple(nearest))


def lines(shown: Beside) -> Iterator[str]:
    """For a terminal: figures of what a plan is shown beside; where samples have kinds, of the plan as well."""
    rows = list(shown.rows())
    for number, (name, figures) in enumerate(rows):
        kinds = [f"{kind} {_share(each.match)}" for kind, each in figures.kinds.items()]
        apart = f"; {', '.join(kinds)}" if kinds else ""
        if number:
            yield f"beside it {name}: {_share(figures.match)} match, {figures.flops_share:.0%} of the FLOPs{apart}"
        elif kinds:
            yield f"by kind {name}: {', '.join(kinds)}"


def _share(found: Estimate) -> str:
    return f"{found.mean:.1%} ({found.low:.1%} to {found.high:.1%})"
