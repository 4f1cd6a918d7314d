"""The report's drawings, as SVG whose colours the page's style decides and whose marks explain themselves on hover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, sqrt

from fastv_calib.rankers import CONTROLS
from fastv_export.calibration import Calibration, PlanFigures

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 20, 52
"""Margins around the axes, in units of the drawing."""
SIZE = 6.0
"""Half of a mark's width."""
COLOURS = 6
"""Of rankers, in the page's style."""


def plan_plot(calibration: Calibration, chosen: PlanFigures | None) -> str:
    """Greedy match over FLOPs: a mark per plan, its shape by K and its colour by ranker, its interval as a line."""
    plans = calibration.plans
    ticks = _ticks(min(plan.match.low for plan in plans))
    axes = _Axes((0.0, 1.0), (ticks[0], 1.0))
    parts = [axes.grid([0, 0.2, 0.4, 0.6, 0.8, 1.0], ticks, "FLOPs of a prefill, of the unpruned model's")]
    target = axes.at(0, calibration.objectives.min_agreement)[1]
    parts.append(
        f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{target:.1f}" y2="{target:.1f}">'
        f"<title>Asked for: {calibration.objectives.min_agreement:.1%}</title></line>"
    )
    front = sorted((plans[index].flops_share, plans[index].match.mean) for index in calibration.pareto)
    parts.append(f'<polyline class="front" points="{_points(axes, front)}"/>')
    # What is chosen is drawn last, above what lies close to it.
    for plan in sorted(plans, key=lambda plan: plan is chosen):
        parts.append(_plan_mark(axes, plan, calibration, plan is chosen))
    return _svg(parts, "Greedy match over FLOPs, one mark per plan")


def attention_plot(attention: Sequence[float]) -> str:
    """The share of attention that visual tokens get, by layer."""
    last = len(attention) - 1
    axes = _Axes((0.0, float(max(last, 1))), (0.0, 1.0), height=260)
    step = max(1, last // 12)
    parts = [
        axes.grid(list(range(0, last + 1, step)), [0, 0.25, 0.5, 0.75, 1.0], "layer", x_format="{:g}"),
        f'<polyline class="attention" points="{_points(axes, list(enumerate(attention)))}"/>',
    ]
    for layer, share in enumerate(attention):
        x, y = axes.at(layer, share)
        parts.append(
            f'<circle class="attention-mark" cx="{x:.1f}" cy="{y:.1f}" r="4">'
            f"<title>Layer {layer}: visual tokens get {share:.1%}</title></circle>"
        )
    return _svg(parts, "Share of attention that visual tokens get, by layer", axes.height)


def ranker_class(calibration: Calibration, ranker: str) -> str:
    """The class that gives a ranker's marks their colour: controls are grey."""
    return "control" if ranker in CONTROLS else f"ranker-{calibration.settings.rankers.index(ranker) % COLOURS}"


def mark(shape: int, x: float, y: float) -> str:
    """A circle, square, triangle or diamond, in turn."""
    s = SIZE
    corners = [
        None,
        [(-s, -s), (s, -s), (s, s), (-s, s)],
        [(0, -s * 1.3), (s * 1.2, s), (-s * 1.2, s)],
        [(0, -s * sqrt(2)), (s * sqrt(2), 0), (0, s * sqrt(2)), (-s * sqrt(2), 0)],
    ][shape % 4]
    if corners is None:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s}"/>'
    return '<polygon points="' + " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners) + '"/>'


@dataclass(frozen=True)
class _Axes:
    x: tuple[float, float]
    y: tuple[float, float]
    height: int = HEIGHT

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is drawn."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def grid(self, xs: Sequence[float], ys: Sequence[float], label: str, x_format: str = "{:.0%}") -> str:
        lines = []
        for value in ys:
            _, y = self.at(self.x[0], value)
            lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{value:.0%}</text>')
        for value in xs:
            x, y = self.at(value, self.y[0])
            lines.append(f'<text x="{x:.1f}" y="{y + 20:.1f}" text-anchor="middle">{x_format.format(value)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        lines.append(f'<text x="{middle}" y="{self.height - 8}" text-anchor="middle">{escape(label)}</text>')
        return "".join(lines)


def _plan_mark(axes: _Axes, plan: PlanFigures, calibration: Calibration, chosen: bool) -> str:
    point, match = plan.point, plan.match
    x, y = axes.at(plan.flops_share, match.mean)
    (_, low), (_, high) = axes.at(0, match.low), axes.at(0, match.high)
    title = (
        f"{point}: {match.mean:.1%} match ({match.low:.1%} to {match.high:.1%}), "
        f"{plan.flops_share:.0%} of the FLOPs, {plan.cache_share:.0%} of the cache"
    )
    if point.layer is None:
        name, shape = "unpruned", mark(0, x, y)
    else:
        name = ranker_class(calibration, point.ranker)
        shape = mark(calibration.settings.layers.index(point.layer), x, y)
    ring = ""
    if chosen:
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="13"/>'
        ring += f'<text class="label" x="{x - 16:.1f}" y="{y - 9:.1f}" text-anchor="end">{escape(str(point))}</text>'
    line = f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    return f'<g class="{name}"><title>{escape(title)}</title>{line}{shape}{ring}</g>'


def _ticks(lowest: float) -> list[float]:
    """From a round value that is not above `lowest` to 1."""
    parts = 5 if lowest < 0.5 else 10
    first = min(floor(lowest * parts), parts - 1)
    return [tick / parts for tick in range(first, parts + 1)]


def _points(axes: _Axes, values: Sequence[tuple[float, float]]) -> str:
    return " ".join("{:.1f},{:.1f}".format(*axes.at(x, y)) for x, y in values)


def _svg(parts: Sequence[str], label: str, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
