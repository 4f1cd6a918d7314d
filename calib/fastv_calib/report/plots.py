"""The report's drawings: attention by layer, lengths, stages. `plan_plot` has the plans over their cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

from fastv_export.calibration import Calibration, Latency
from fastv_export.points import PointCut
from fastv_runtime.report.numbers import milliseconds, share
from fastv_runtime.report.svg import Axes, Point, bar, dot, drawing, line, path, text

WIDTH, HEIGHT = 760, 400
"""Wider than the kit's: these stand alone in a row."""
LEFT, RIGHT, TOP, BOTTOM, GAP = 66, 24, 20, 58, 10
"""Room around the axes, and between them and their labels, in units of the drawing."""


def attention_plot(attention: Sequence[float], cuts: Sequence[PointCut]) -> str:
    """The share of attention that visual tokens get, by layer, and from which layers on they are pruned."""
    last = len(attention) - 1
    scales = axes((0.0, float(max(last, 1))), (0.0, 1.0), height=260)
    layers = range(0, last + 1, max(1, last // 12))
    parts = [
        rows(scales, [0, 0.25, 0.5, 0.75, 1.0]),
        scales.columns(layers, [f"{layer}" for layer in layers], "layer", lines=False),
        path([scales.at(layer, part) for layer, part in enumerate(attention)], "attention"),
    ]
    for number, cut in enumerate(cuts):
        x, y = scales.at(cut.layer - 0.5, 0)
        above = TOP + number * 19
        parts.append(line((x, above - 10), (x, y), "length"))
        side, anchor = (-6, "end") if x > WIDTH * 0.7 else (6, "start")
        parts.append(text(x + side, above, f"{cut.keep:.0%} from layer {cut.layer} on", anchor, "label"))
    for layer, part in enumerate(attention):
        x, y = scales.at(layer, part)
        parts.append(dot(x, y, "attention-mark", f"Layer {layer}: visual tokens get {share(part)}", 4))
    return drawing(parts, "Share of attention that visual tokens get, by layer", scales.height, WIDTH)


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
    scales = axes((first - 0.5, last - 0.5), (0.0, top * 1.3), height=250)
    across = range(first, last, max(1, ceil((last - first) / 12)))
    parts = [
        rows(scales, [0, top / 2, top]),
        scales.columns(across, [f"{tick}" for tick in across], "text tokens of a prompt", lines=False),
    ]
    for number, count in sorted(bars.items()):
        start = first + number * width
        (left, base), (right, y) = scales.at(start - 0.5, 0), scales.at(start + width - 0.5, count / len(texts))
        name = f"{start}" if width == 1 else f"{start} to {start + width - 1}"
        parts.append(bar(left + 0.5, y, right - left - 1, base - y, "bar", f"{name} tokens: {count} prompts"))
    for height, (name, tokens) in enumerate(marks):
        x, y = scales.at(tokens + 0.5, 0)
        above = TOP + height * 19
        parts.append(line((x, above - 10), (x, y), "length"))
        side, anchor = (-5, "end") if x > WIDTH / 2 else (5, "start")
        parts.append(text(x + side, above, f"{name}: {tokens}", anchor, "label"))
    return drawing(parts, "Text tokens of the prompts", scales.height, WIDTH)


def budget_plot(calibration: Calibration) -> str:
    """Fixed pruned lengths below the unpruned one, each as text and visual tokens. Empty without a choice."""
    chosen = calibration.chosen
    if chosen is None:
        return ""
    whole = chosen.max_text + calibration.lengths.visual_max
    left = LEFT + 40
    scale = (WIDTH - left - RIGHT - 60) / whole
    parts = []
    kept = [(f"layer {cut.layer} on", length) for cut, length in zip(chosen.cuts, chosen.fixed_lengths, strict=True)]
    for row, (name, length) in enumerate([("all", whole), *kept]):
        y, words, visual = 8 + row * 44, chosen.max_text, length - chosen.max_text
        parts.append(text(left - GAP, y + 21, name, "end"))
        for kind, start, count in (("text", 0, words), ("visual", words, visual)):
            parts.append(bar(left + start * scale, y, count * scale, 32, f"{kind}-part", f"{count} {kind} tokens"))
        parts.append(text(left + length * scale + 8, y + 21, f"{length}", kind="label"))
    label = f"{', then '.join(map(str, chosen.fixed_lengths))} of {whole} tokens are kept"
    return drawing(parts, label, 48 + 44 * len(kept), WIDTH)


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


def axes(x: Point, y: Point, *, height: int = HEIGHT, stretched: bool = False) -> Axes:
    """Of a drawing that stands alone in a row."""
    return Axes(x, y, height, LEFT, RIGHT, TOP, BOTTOM, WIDTH, GAP, stretched)


def rows(scales: Axes, values: Sequence[float]) -> str:
    """Lines across at shares."""
    return scales.rows(values, [f"{value:.0%}" for value in values])
