"""The report: one HTML page that loads nothing, for a screen, light or dark, and for paper."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastv_calib.plots import SIZE, attention_plot, mark, plan_plot, ranker_class
from fastv_calib.rankers import CONTROLS
from fastv_export.calibration import Calibration, Estimate, PlanFigures, Point

TEMPLATE = "report.html.jinja"


def report(calibration: Calibration, source: str, output: str) -> str:
    """The page. `source`, `output`: as they were typed, for what to type next."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "share": _share,
        "interval": _interval,
        "millinats": _millinats,
        "mib": _mib,
        "count": _count,
    }
    template = environment.from_string((Path(__file__).parent / TEMPLATE).read_text(encoding="utf-8"))
    chosen = chosen_plan(calibration)
    plans = sorted(calibration.plans, key=lambda plan: (-plan.flops, plan.point.ranker))
    return template.render(
        calibration=calibration,
        chosen=chosen,
        unpruned=calibration.plans[-1],
        colours={name: ranker_class(calibration, name) for name in calibration.settings.rankers},
        controls=[name for name in calibration.settings.rankers if name in CONTROLS],
        plans=plans,
        pareto=[calibration.plans[index].point for index in calibration.pareto],
        plot=Markup(plan_plot(calibration, chosen)),
        attention=Markup(attention_plot(calibration.attention)),
        marks=[Markup(mark(index, SIZE * 1.5, SIZE * 1.5)) for index in range(4)],
        source=source,
        output=output,
    )


def chosen_plan(calibration: Calibration) -> PlanFigures | None:
    """The figures of what was chosen."""
    chosen = calibration.chosen
    if chosen is None:
        return None
    point = Point(layer=chosen.layer, keep=chosen.keep, ranker=chosen.ranker, precision=chosen.precision)
    return next(plan for plan in calibration.plans if plan.point == point)


def _share(value: float) -> str:
    return f"{value:.1%}"


def _interval(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.mean:.1%} ({estimate.low * 100:.1f}–{estimate.high * 100:.1f})"


def _millinats(estimate: Estimate) -> str:
    def rounded(value: float, digits: int) -> str:
        return f"{float(f'{value * 1000:.{digits}g}'):g}"  # never with an exponent, where "g" alone has one

    return f"{rounded(estimate.mean, 2)} ({rounded(estimate.low, 1)}–{rounded(estimate.high, 1)})"


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f}"


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"
