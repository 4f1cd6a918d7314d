"""Plans over their cost: the report's first drawing, and the marks of its legend."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from fastv_calib.plans import controlled
from fastv_calib.report.plots import LEFT, WIDTH, axes, rows
from fastv_export.calibration import BASELINES, BaselineFigures, Calibration, Figures, PlanFigures
from fastv_export.points import Chain
from fastv_export.quantization.presets import FEW_BITS
from fastv_export.rankers import CONTROLS
from fastv_runtime.report.numbers import share
from fastv_runtime.report.svg import Axes, Point, dot, drawing, group, line, mark, path, share_ticks, text

SIZE = 5.0
"""Half of a mark's width."""
LINK = 3.2
"""Radius of each of the dots that stand for a chain of cuts, one a cut."""
ASIDE = 6.0
"""Between marks of plans that cost the same and differ in their ranker, which would hide each other."""
COLOURS = 6
"""Of rankers, in the page's style."""


def plan_plot(calibration: Calibration, chosen: PlanFigures | None) -> str:
    """Greedy match over FLOPs: a mark per plan, its shape by K or the number of cuts and its colour by ranker.

    Intervals are lines, and so are baselines. Match is stretched towards 100%, where plans that matter lie: as high as
    the root of its complement is small.
    """
    plans, baselines = calibration.plans, calibration.baselines
    everything: list[Figures] = [*plans, *baselines]
    up = share_ticks(min(each.match.low for each in everything))
    first = max(0, floor(min(each.flops_share for each in everything) * 10 - 0.5)) / 10
    scales = axes((first, 1.0), (up[0], 1.0), stretched=True)
    across = [tick / 10 for tick in range(round(first * 10), 11)]
    asked = calibration.objectives.min_agreement
    parts = [
        rows(scales, up),
        scales.columns(
            across,
            [f"{tick:.0%}" for tick in across],
            "FLOPs of a prefill, share of the unpruned model's",
            lines=False,
        ),
        line(scales.at(first, asked), scales.at(1.0, asked), "target", f"Asked for: {share(asked)}"),
        path(sorted(_place(scales, plans[index], calibration) for index in calibration.pareto), "front"),
        *(_baseline(scales, [each for each in baselines if each.name == name]) for name in BASELINES),
    ]
    # What is chosen is drawn last, above what lies close to it.
    for index, plan in sorted(enumerate(plans), key=lambda each: each[1] is chosen):
        parts.append(_plan_mark(scales, index, calibration, plan is chosen))
    return drawing(parts, "Greedy match over FLOPs, one mark per plan", scales.height, WIDTH)


def rankers_of(calibration: Calibration) -> list[str]:
    """Rankers of the plans, those of the settings first."""
    names = [cut.ranker for plan in calibration.plans for cut in plan.point.cuts]
    return list(dict.fromkeys([*calibration.settings.rankers, *names]))


def layers_of(calibration: Calibration) -> list[int]:
    """K of plans with one cut, those of the settings first."""
    single = [plan.point.layers[0] for plan in calibration.plans if len(plan.point.cuts) == 1]
    return list(dict.fromkeys([*calibration.settings.layers, *single]))


def chains_of(calibration: Calibration) -> list[int]:
    """How many cuts there are in plans that have several."""
    return sorted({len(plan.point.cuts) for plan in calibration.plans} - {0, 1})


def ranker_class(calibration: Calibration, ranker: str | None) -> str:
    """The class that gives a ranker's marks their colour: controls are grey, and several rankers in one plan dark."""
    if ranker is None:
        return "mixed"
    return "control" if ranker in CONTROLS else f"ranker-{rankers_of(calibration).index(ranker) % COLOURS}"


def swatch(shape: int) -> str:
    """A mark for a legend, in the middle of a square of three marks' half widths."""
    return mark(shape, SIZE * 1.5, SIZE * 1.5, SIZE)


def chain_swatch(count: int) -> str:
    """The same of a chain of so many cuts."""
    return _links(count, SIZE * 1.5, SIZE * 1.5)


def baseline_swatch(name: str) -> str:
    """The same of a baseline."""
    return _cross(name, SIZE * 1.5, SIZE * 1.5)


def _place(scales: Axes, plan: PlanFigures, calibration: Calibration) -> Point:
    x, y = scales.at(plan.flops_share, plan.match.mean)
    rankers = rankers_of(calibration)
    ranker = plan.point.ranker
    aside = 0.0 if ranker is None else rankers.index(ranker) - (len(rankers) - 1) / 2
    below = calibration.settings.precisions.index(plan.point.precision) if plan.point.precision in FEW_BITS else 0
    return x + aside * ASIDE + below * 2, y


def _plan_mark(scales: Axes, index: int, calibration: Calibration, chosen: bool) -> str:
    plan = calibration.plans[index]
    point, match = plan.point, plan.match
    x, y = _place(scales, plan, calibration)
    (_, low), (_, high) = scales.at(0, match.low), scales.at(0, match.high)
    title = f"{_title(str(point), plan)}, {plan.cache_share:.0%} of the cache"
    if plan.ttft is not None:
        title += f", {plan.ttft}"
    name = ranker_class(calibration, point.ranker) if point.cuts else "unpruned"
    if controlled(point):
        name = "control"
    parts = [line((x, low), (x, high), "interval"), _shape(point.cuts, layers_of(calibration), x, y)]
    if chosen:
        side, anchor = (-16, "end") if x > LEFT + 7 * len(str(point)) + 16 else (16, "start")
        parts += [dot(x, y, "ring", radius=11), text(x + side, y - 10, str(point), anchor, "label name")]
    best = " on-front" if index in calibration.pareto else ""
    best += " few-bits" if point.precision in FEW_BITS else ""
    return group(parts, f"plan {name}{best}", title, plan=index)


def _shape(cuts: Chain, layers: Sequence[int], x: float, y: float) -> str:
    """By K of a single cut; of several a dot each."""
    if len(cuts) > 1:
        return _links(len(cuts), x, y)
    return mark(layers.index(cuts[0].layer) if cuts else 0, x, y, SIZE)


def _links(count: int, x: float, y: float) -> str:
    step = 2 * LINK * 0.9
    start = x - step * (count - 1) / 2
    return "".join(dot(start + step * number, y, radius=LINK) for number in range(count))


def _baseline(scales: Axes, figures: Sequence[BaselineFigures]) -> str:
    """A cross for each, joined; all of one kind."""
    places = [(*scales.at(each.flops_share, each.match.mean), each) for each in figures]
    parts = [path(sorted((x, y) for x, y, _ in places), "baseline-line")] if places else []
    for x, y, each in places:
        (_, low), (_, high) = scales.at(0, each.match.low), scales.at(0, each.match.high)
        cross = [line((x, low), (x, high), "interval"), _cross(each.name, x, y)]
        parts.append(group(cross, "baseline", f"{_title(str(each), each)}, baseline"))
    return "".join(parts)


def _cross(name: str, x: float, y: float) -> str:
    """Upright for the first of BASELINES, slanted for others."""
    flat, slanted = SIZE * 1.25, SIZE * 0.9
    corners = (
        [((-flat, 0.0), (flat, 0.0)), ((0.0, -flat), (0.0, flat))]
        if name == BASELINES[0]
        else [((-slanted, -slanted), (slanted, slanted)), ((-slanted, slanted), (slanted, -slanted))]
    )
    return "".join(line((x + a, y + b), (x + c, y + d), "cross") for (a, b), (c, d) in corners)


def _title(name: str, figures: Figures) -> str:
    match = figures.match
    return (
        f"{name}: {share(match.mean)} match ({share(match.low)} to {share(match.high)}), "
        f"{figures.flops_share:.0%} of the FLOPs"
    )
