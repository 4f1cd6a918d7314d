"""The report's drawings, as SVG whose colours the page's style decides and whose marks explain themselves on hover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, sqrt

from fastv_calib.measurement.rankers import CONTROLS
from fastv_export.calibration import Calibration, Latency, PlanFigures
from fastv_export.quantization.presets import FEW_BITS

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 20, 58
"""Margins around the axes, in units of the drawing."""
SIZE = 5.0
"""Half of a mark's width."""
ASIDE = 6.0
"""Between marks of plans that cost the same and differ in their ranker, which would hide each other."""
COLOURS = 6
"""Of rankers, in the page's style."""


def plan_plot(calibration: Calibration, chosen: PlanFigures | None) -> str:
    """Greedy match over FLOPs: a mark per plan, its shape by K and its colour by ranker, its interval as a line.

    Match is stretched towards 100%, where plans that matter lie: as high as the root of its complement is small.
    """
    plans = calibration.plans
    ticks = _ticks(min(plan.match.low for plan in plans))
    first = max(0, floor(min(plan.flops_share for plan in plans) * 10 - 0.5)) / 10
    axes = _Axes((first, 1.0), (ticks[0], 1.0), stretched=True)
    across = [tick / 10 for tick in range(round(first * 10), 11)]
    parts = [axes.grid(across, ticks, "FLOPs of a prefill, share of the unpruned model's")]
    target = axes.at(first, calibration.objectives.min_agreement)[1]
    parts.append(
        f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{target:.1f}" y2="{target:.1f}">'
        f"<title>Asked for: {calibration.objectives.min_agreement:.1%}</title></line>"
    )
    front = sorted(_place(axes, plans[index], calibration) for index in calibration.pareto)
    parts.append('<polyline class="front" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in front) + '"/>')
    # What is chosen is drawn last, above what lies close to it.
    for index, plan in sorted(enumerate(plans), key=lambda each: each[1] is chosen):
        parts.append(_plan_mark(axes, index, calibration, plan is chosen))
    return _svg(parts, "Greedy match over FLOPs, one mark per plan")


def attention_plot(attention: Sequence[float], pruned: int | None) -> str:
    """The share of attention that visual tokens get, by layer, and from which layer on they are pruned."""
    last = len(attention) - 1
    axes = _Axes((0.0, float(max(last, 1))), (0.0, 1.0), height=260)
    step = max(1, last // 12)
    parts = [
        axes.grid(list(range(0, last + 1, step)), [0, 0.25, 0.5, 0.75, 1.0], "layer", x_format="{:g}"),
        f'<polyline class="attention" points="{_points(axes, list(enumerate(attention)))}"/>',
    ]
    if pruned is not None:
        x, y = axes.at(pruned - 0.5, 0)
        parts.append(f'<line class="length" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 10}" y2="{y:.1f}"/>')
        parts.append(f'<text class="label" x="{x + 6:.1f}" y="{TOP}">pruned from layer {pruned} on</text>')
    for layer, share in enumerate(attention):
        x, y = axes.at(layer, share)
        parts.append(
            f'<circle class="attention-mark" cx="{x:.1f}" cy="{y:.1f}" r="4">'
            f"<title>Layer {layer}: visual tokens get {share:.1%}</title></circle>"
        )
    return _svg(parts, "Share of attention that visual tokens get, by layer", axes.height)


def lengths_plot(texts: Sequence[int], calibration: Calibration) -> str:
    """How many prompts have how many text tokens, and the room that follows."""
    lengths, chosen = calibration.lengths, calibration.chosen
    marks = [("median", lengths.text_p50), ("95%", lengths.text_p95), ("longest", lengths.text_max)]
    if chosen is not None:
        marks.append(("room", chosen.max_text))
    first, last = min(texts), max(marks[-1][1], lengths.text_max) + 1
    width = ceil((last - first) / 48)
    bars = Counter((text - first) // width for text in texts)
    top = max(bars.values()) / len(texts)
    axes = _Axes((first - 0.5, last - 0.5), (0.0, top * 1.3), height=250)
    step = max(1, ceil((last - first) / 12))
    ticks = [top * part for part in (0, 0.5, 1)]
    parts = [axes.grid(list(range(first, last, step)), ticks, "text tokens of a prompt", "{:g}")]
    for number, count in sorted(bars.items()):
        start = first + number * width
        (left, base), (right, y) = axes.at(start - 0.5, 0), axes.at(start + width - 0.5, count / len(texts))
        name = f"{start}" if width == 1 else f"{start} to {start + width - 1}"
        parts.append(
            f'<rect class="bar" x="{left + 0.5:.1f}" y="{y:.1f}" width="{right - left - 1:.1f}" '
            f'height="{base - y:.1f}"><title>{name} tokens: {count} prompts</title></rect>'
        )
    for height, (name, tokens) in enumerate(marks):
        x, y = axes.at(tokens + 0.5, 0)
        above = TOP + height * 19
        parts.append(f'<line class="length" x1="{x:.1f}" x2="{x:.1f}" y1="{above - 10:.1f}" y2="{y:.1f}"/>')
        side, anchor = (-5, "end") if x > WIDTH / 2 else (5, "start")
        parts.append(
            f'<text class="label" x="{x + side:.1f}" y="{above:.1f}" text-anchor="{anchor}">{name}: {tokens}</text>'
        )
    return _svg(parts, "Text tokens of the prompts", axes.height)


def budget_plot(calibration: Calibration) -> str:
    """The fixed pruned length beside the unpruned one, each as text and visual tokens. Empty without a choice."""
    chosen = calibration.chosen
    if chosen is None:
        return ""
    whole = chosen.max_text + calibration.lengths.visual_max
    scale = (WIDTH - LEFT - RIGHT - 60) / whole
    parts = []
    for row, (name, length) in enumerate((("all", whole), ("kept", chosen.fixed_length))):
        y, text, visual = 8 + row * 44, chosen.max_text, length - chosen.max_text
        parts.append(f'<text x="{LEFT - 10}" y="{y + 21}" text-anchor="end">{name}</text>')
        for kind, start, count in (("text", 0, text), ("visual", text, visual)):
            parts.append(
                f'<rect class="{kind}-part" x="{LEFT + start * scale:.1f}" y="{y}" width="{count * scale:.1f}" '
                f'height="32"><title>{count} {kind} tokens</title></rect>'
            )
        parts.append(f'<text class="label" x="{LEFT + length * scale + 8:.1f}" y="{y + 21}">{length}</text>')
    return _svg(parts, f"{chosen.fixed_length} of {whole} tokens are kept", 92)


def stages_plot(latency: Latency) -> str:
    """A bar a bundle: what its time to the first token is made of, medians, and from the 5th to the 95th percentile."""
    row = 58
    longest = max(bundle.ttft.high for bundle in latency.bundles)
    scale = (WIDTH - 8 - RIGHT) / longest
    parts = []
    for number, bundle in enumerate(latency.bundles):
        top, x = number * row, 0.0
        parts.append(f'<text class="label" x="0" y="{top + 16}">{escape(f"{bundle.name}: {bundle.point}")}</text>')
        for index, (stage, ms) in enumerate(bundle.stages.items()):
            parts.append(
                f'<rect class="stage-{index}" x="{x:.1f}" y="{top + 24}" width="{ms * scale:.1f}" height="18">'
                f"<title>{stage}: {ms:.3g} ms</title></rect>"
            )
            x += ms * scale
        low, high = bundle.ttft.low * scale, bundle.ttft.high * scale
        parts.append(f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{top + 33}" y2="{top + 33}"/>')
    return _svg(parts, "Time to the first token by stage, a bar for every bundle", row * len(latency.bundles))


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
    stretched: bool = False
    """Towards the upper end of y, which must be 1."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is drawn."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        up = 1 - sqrt(1 - up) if self.stretched else up
        return LEFT + across * (WIDTH - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def grid(self, xs: Sequence[float], ys: Sequence[float], label: str, x_format: str = "{:.0%}") -> str:
        lines = []
        for value in ys:
            _, y = self.at(self.x[0], value)
            lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{value:.0%}</text>')
        for value in xs:
            x, y = self.at(value, self.y[0])
            lines.append(f'<text x="{x:.1f}" y="{y + 22:.1f}" text-anchor="middle">{x_format.format(value)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        lines.append(f'<text x="{middle}" y="{self.height - 8}" text-anchor="middle">{escape(label)}</text>')
        return "".join(lines)


def _place(axes: _Axes, plan: PlanFigures, calibration: Calibration) -> tuple[float, float]:
    x, y = axes.at(plan.flops_share, plan.match.mean)
    rankers = calibration.settings.rankers
    aside = 0.0 if plan.point.layer is None else rankers.index(plan.point.ranker) - (len(rankers) - 1) / 2
    below = calibration.settings.precisions.index(plan.point.precision) if plan.point.precision in FEW_BITS else 0
    return x + aside * ASIDE + below * 2, y


def _plan_mark(axes: _Axes, index: int, calibration: Calibration, chosen: bool) -> str:
    plan = calibration.plans[index]
    point, match = plan.point, plan.match
    x, y = _place(axes, plan, calibration)
    (_, low), (_, high) = axes.at(0, match.low), axes.at(0, match.high)
    title = (
        f"{point}: {match.mean:.1%} match ({match.low:.1%} to {match.high:.1%}), "
        f"{plan.flops_share:.0%} of the FLOPs, {plan.cache_share:.0%} of the cache"
    )
    if plan.ttft is not None:
        title += f", {plan.ttft}"
    if point.layer is None:
        name, shape = "unpruned", mark(0, x, y)
    else:
        name = ranker_class(calibration, point.ranker)
        shape = mark(calibration.settings.layers.index(point.layer), x, y)
    ring = ""
    if chosen:
        side, anchor = (-16, "end") if x > LEFT + 7 * len(str(point)) + 16 else (16, "start")
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="11"/>'
        ring += (
            f'<text class="label name" x="{x + side:.1f}" y="{y - 10:.1f}" text-anchor="{anchor}">{escape(str(point))}'
        )
        ring += "</text>"
    line = f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    best = " on-front" if index in calibration.pareto else ""
    best += " few-bits" if point.precision in FEW_BITS else ""
    return f'<g class="plan {name}{best}" data-plan="{index}"><title>{escape(title)}</title>{line}{shape}{ring}</g>'


TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99, 1.0)


def _ticks(lowest: float) -> list[float]:
    """From a round value that is not above `lowest` to 1."""
    first = max(tick for tick in TICKS[:-1] if tick <= lowest)
    return [tick for tick in TICKS if tick >= first]


def _points(axes: _Axes, values: Sequence[tuple[float, float]]) -> str:
    return " ".join("{:.1f},{:.1f}".format(*axes.at(x, y)) for x, y in values)


def _svg(parts: Sequence[str], label: str, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
