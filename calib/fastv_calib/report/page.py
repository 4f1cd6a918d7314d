"""The report: one HTML page that loads nothing, for a screen, light or dark, and for paper."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastv_calib.choice.beside import beside
from fastv_calib.report.evidence import Evidence
from fastv_calib.report.images import SHARES, heat_map, kept_image, opacity
from fastv_calib.report.plan_plot import (
    baseline_swatch,
    chain_swatch,
    chains_of,
    layers_of,
    plan_plot,
    ranker_class,
    rankers_of,
    swatch,
)
from fastv_calib.report.plots import attention_plot, budget_plot, lengths_plot, stages_plot
from fastv_export.calibration import BASELINES, Calibration, Estimate, PlanFigures, Spread
from fastv_export.rankers import CONTROLS
from fastv_runtime.generation.kept_image import FRAME, GREY, SHOWN
from fastv_runtime.report.numbers import mib, milliseconds, share, share_interval, spread

TEMPLATE = "report.html.jinja"


def report(calibration: Calibration, evidence: Evidence, source: str, output: str) -> str:
    """The page. `source`, `output`: as they were typed, for what to type next."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "share": share,
        "interval": _interval,
        "millinats": _millinats,
        "mib": _mib,
        "count": _count,
        "ms": milliseconds,
        "spread": _spread,
    }
    template = environment.from_string((Path(__file__).parent / TEMPLATE).read_text(encoding="utf-8"))
    chosen = chosen_plan(calibration)
    plans = sorted(calibration.plans, key=lambda plan: (-plan.flops, str(plan.point)))
    names = rankers_of(calibration)
    near = beside(calibration, evidence.plan)
    measured = {each.name for each in calibration.baselines}
    return template.render(
        calibration=calibration,
        chosen=chosen,
        unpruned=calibration.plans[-1],
        colours={name: ranker_class(calibration, name) for name in names},
        layers=[(layer, Markup(swatch(number))) for number, layer in enumerate(layers_of(calibration))],
        chains=[(count, Markup(chain_swatch(count))) for count in chains_of(calibration)],
        baselines=[(name, Markup(baseline_swatch(name))) for name in BASELINES if name in measured],
        near=list(near.rows()),
        kinds=sorted({kind for _, figures in near.rows() for kind in figures.kinds}),
        controls=[name for name in names if name in CONTROLS],
        plans=[(calibration.plans.index(plan), plan) for plan in plans],
        evidence=evidence,
        examples=[
            (each, [Markup(kept_image(panel, f"Kept of: {each.question}")) for panel in each.panels])
            for each in evidence.examples
        ],
        heat={name: Markup(heat_map(shares, f"Where {name} keeps")) for name, shares in evidence.heat.items()},
        shares=[(share, f"{opacity(share):.2g}") for share in SHARES],
        pareto=[calibration.plans[index].point for index in calibration.pareto],
        plot=Markup(plan_plot(calibration, chosen)),
        attention=Markup(attention_plot(calibration.attention, evidence.plan.point.cuts)),
        lengths=Markup(lengths_plot(evidence.texts, calibration)),
        budget=Markup(budget_plot(calibration)),
        stages=None if calibration.latency is None else Markup(stages_plot(calibration.latency)),
        circle=Markup(swatch(0)),
        grey=_colour(GREY),
        dimmed=1 - SHOWN,
        frame=_colour(FRAME),
        source=source,
        output=output,
    )


def chosen_plan(calibration: Calibration) -> PlanFigures | None:
    """The figures of what was chosen."""
    chosen = calibration.chosen
    if chosen is None:
        return None
    return next(plan for plan in calibration.plans if plan.point == chosen.point)


def _colour(levels: tuple[int, int, int]) -> str:
    return "#" + bytes(levels).hex()


def _interval(estimate: Estimate | None) -> str:
    return "" if estimate is None else share_interval(estimate.mean, estimate.low, estimate.high)


def _millinats(estimate: Estimate) -> str:
    def rounded(value: float, digits: int) -> str:
        return f"{float(f'{value * 1000:.{digits}g}'):g}"  # never with an exponent, where "g" alone has one

    return f"{rounded(estimate.mean, 2)} ({rounded(estimate.low, 1)}–{rounded(estimate.high, 1)})"


def _mib(count: float) -> str:
    return mib(count, digits=1)  # the KV cache of a small model is a few MiB


def _spread(times: Spread) -> str:
    return spread(times.median, times.low, times.high)


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"
