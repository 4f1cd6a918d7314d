"""The report's drawings: plans over their cost, attention by layer, lengths, stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil, floor

from fastv_export.calibration import Calibration, Latency, PlanFigures
from fastv_export.quantization.presets import FEW_BITS
from fastv_export.rankers import CONTROLS
from fastv_runtime.report.numbers import milliseconds, share
from fastv_runtime.report.svg import Axes, Point, bar, dot, drawing, group, line, mark, path, share_ticks, text

WIDTH, HEIGHT = 760, 400
"""Wider than the kit's: these stand alone in a row."""
LEFT, RIGHT, TOP, BOTTOM, GAP = 66, 24, 20, 58, 10
"""Room around the axes, and between them and their labels, in units of the drawing."""
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
    up = share_ticks(min(plan.match.low for plan in plans))
    first = max(0, floor(min(plan.flops_share for plan in plans) * 10 - 0.5)) / 10
    axes = _axes((first, 1.0), (up[0], 1.0), stretched=True)
    across = [tick / 10 for tick in range(round(first * 10), 11)]
    asked = calibration.objectives.min_agreement
    parts = [
        _rows(axes, up),
        axes.columns(
            across,
            [f"{tick:.0%}" for tick in across],
            "FLOPs of a prefill, share of the unpruned model's",
            lines=False,
        ),
        line(axes.at(first, asked), axes.at(1.0, asked), "target", f"Asked for: {share(asked)}"),
        path(sorted(_place(axes, plans[index], calibration) for index in calibration.pareto), "front"),
    ]
    # What is chosen is drawn last, above what lies close to it.
    for index, plan in sorted(enumerate(plans), key=lambda each: each[1] is chosen):
        parts.append(_plan_mark(axes, index, calibration, plan is chosen))
    return drawing(parts, "Greedy match over FLOPs, one mark per plan", axes.height, WIDTH)


def attention_plot(attention: Sequence[float], pruned: int | None) -> str:
    """The share of attention that visual tokens get, by layer, and from which layer on they are pruned."""
    last = len(attention) - 1
    axes = _axes((0.0, float(max(last, 1))), (0.0, 1.0), height=260)
    layers = range(0, last + 1, max(1, last // 12))
    parts = [
        _rows(axes, [0, 0.25, 0.5, 0.75, 1.0]),
        axes.columns(layers, [f"{layer}" for layer in layers], "layer", lines=False),
        path([axes.at(layer, part) for layer, part in enumerate(attention)], "attention"),
    ]
    if pruned is not None:
        x, y = axes.at(pruned - 0.5, 0)
        parts.append(line((x, TOP - 10), (x, y), "length"))
        parts.append(text(x + 6, TOP, f"pruned from layer {pruned} on", kind="label"))
    for layer, part in enumerate(attention):
        x, y = axes.at(layer, part)
        parts.append(dot(x, y, "attention-mark", f"Layer {layer}: visual tokens get {share(part)}", 4))
    return drawing(parts, "Share of attention that visual tokens get, by layer", axes.height, WIDTH)


def lengths_plot(texts: Sequence[int], calibration: Calibration) -> str:
    """How many prompts have how many text tokens, and the room that follows."""
    lengths, chosen = calibration.lengths, calibration.chosen
    marks = [("median", lengths.text_p50), ("95%", lengths.text_p95), ("longest", lengths.text_max)]
    if chosen is not None:
        marks.append(("room", chosen.max_text))
    first, last = min(texts), max(marks[-1][1], lengths.text_max) + 1
    width = ceil((last - first) / 48)
    bars = Counter((tokens - first) // width for tokens in texts)
    top = max(bars.values()) / len(texts)
    axes = _axes((first - 0.5, last - 0.5), (0.0, top * 1.3), height=250)
    across = range(first, last, max(1, ceil((last - first) / 12)))
    parts = [
        _rows(axes, [0, top / 2, top]),
        axes.columns(across, [f"{tick}" for tick in across], "text tokens of a prompt", lines=False),
    ]
    for number, count in sorted(bars.items()):
        start = first + number * width
        (left, base), (right, y) = axes.at(start - 0.5, 0), axes.at(start + width - 0.5, count / len(texts))
        name = f"{start}" if width == 1 else f"{start} to {start + width - 1}"
        parts.append(bar(left + 0.5, y, right - left - 1, base - y, "bar", f"{name} tokens: {count} prompts"))
    for height, (name, tokens) in enumerate(marks):
        x, y = axes.at(tokens + 0.5, 0)
        above = TOP + height * 19
        parts.append(line((x, above - 10), (x, y), "length"))
        side, anchor = (-5, "end") if x > WIDTH / 2 else (5, "start")
        parts.append(text(x + side, above, f"{name}: {tokens}", anchor, "label"))
    return drawing(parts, "Text tokens of the prompts", axes.height, WIDTH)


def budget_plot(calibration: Calibration) -> str:
    """The fixed pruned length beside the unpruned one, each as text and visual tokens. Empty without a choice."""
    chosen = calibration.chosen
    if chosen is None:
        return ""
    whole = chosen.max_text + calibration.lengths.visual_max
    scale = (WIDTH - LEFT - RIGHT - 60) / whole
    parts = []
    for row, (name, length) in enumerate((("all", whole), ("kept", chosen.fixed_length))):
        y, words, visual = 8 + row * 44, chosen.max_text, length - chosen.max_text
        parts.append(text(LEFT - GAP, y + 21, name, "end"))
        for kind, start, count in (("text", 0, words), ("visual", words, visual)):
            parts.append(bar(LEFT + start * scale, y, count * scale, 32, f"{kind}-part", f"{count} {kind} tokens"))
        parts.append(text(LEFT + length * scale + 8, y + 21, f"{length}", kind="label"))
    return drawing(parts, f"{chosen.fixed_length} of {whole} tokens are kept", 92, WIDTH)


def stages_plot(latency: Latency) -> str:
    """A bar a bundle: what its time to the first token is made of, medians, and from the 5th to the 95th percentile."""
    row = 58
    longest = max(bundle.ttft.high for bundle in latency.bundles)
    scale = (WIDTH - 8 - RIGHT) / longest
    parts = []
    for number, bundle in enumerate(latency.bundles):
        top, x = number * row, 0.0
        parts.append(text(0, top + 16, f"{bundle.name}: {bundle.point}", kind="label"))
        for index, (stage, ms) in enumerate(bundle.stages.items()):
            parts.append(bar(x, top + 24, ms * scale, 18, f"stage-{index}", f"{stage}: {milliseconds(ms)} ms"))
            x += ms * scale
        low, high = bundle.ttft.low * scale, bundle.ttft.high * scale
        parts.append(line((low, top + 33), (high, top + 33), "whisker"))
    label = "Time to the first token by stage, a bar for every bundle"
    return drawing(parts, label, row * len(latency.bundles), WIDTH)


def ranker_class(calibration: Calibration, ranker: str) -> str:
    """The class that gives a ranker's marks their colour: controls are grey."""
    return "control" if ranker in CONTROLS else f"ranker-{calibration.settings.rankers.index(ranker) % COLOURS}"


def swatch(shape: int) -> str:
    """A mark for a legend, in the middle of a square of three marks' half widths."""
    return mark(shape, SIZE * 1.5, SIZE * 1.5, SIZE)


def _axes(x: Point, y: Point, *, height: int = HEIGHT, stretched: bool = False) -> Axes:
    return Axes(x, y, height, LEFT, RIGHT, TOP, BOTTOM, WIDTH, GAP, stretched)


def _rows(axes: Axes, values: Sequence[float]) -> str:
    return axes.rows(values, [f"{value:.0%}" for value in values])


def _place(axes: Axes, plan: PlanFigures, calibration: Calibration) -> Point:
    x, y = axes.at(plan.flops_share, plan.match.mean)
    rankers = calibration.settings.rankers
    aside = 0.0 if plan.point.layer is None else rankers.index(plan.point.ranker) - (len(rankers) - 1) / 2
    below = calibration.settings.precisions.index(plan.point.precision) if plan.point.precision in FEW_BITS else 0
    return x + aside * ASIDE + below * 2, y


def _plan_mark(axes: Axes, index: int, calibration: Calibration, chosen: bool) -> str:
    plan = calibration.plans[index]
    point, match = plan.point, plan.match
    x, y = _place(axes, plan, calibration)
    (_, low), (_, high) = axes.at(0, match.low), axes.at(0, match.high)
    title = (
        f"{point}: {share(match.mean)} match ({share(match.low)} to {share(match.high)}), "
        f"{plan.flops_share:.0%} of the FLOPs, {plan.cache_share:.0%} of the cache"
    )
    if plan.ttft is not None:
        title += f", {plan.ttft}"
    if point.layer is None:
        name, shape = "unpruned", 0
    else:
        name, shape = ranker_class(calibration, point.ranker), calibration.settings.layers.index(point.layer)
    parts = [line((x, low), (x, high), "interval"), mark(shape, x, y, SIZE)]
    if chosen:
        side, anchor = (-16, "end") if x > LEFT + 7 * len(str(point)) + 16 else (16, "start")
        parts += [dot(x, y, "ring", radius=11), text(x + side, y - 10, str(point), anchor, "label name")]
    best = " on-front" if index in calibration.pareto else ""
    best += " few-bits" if point.precision in FEW_BITS else ""
    return group(parts, f"plan {name}{best}", title, plan=index)
