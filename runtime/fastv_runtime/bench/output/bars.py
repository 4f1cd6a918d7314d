"""Drawings of parts that make a whole: the time to the first token by stage, memory by meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastv_runtime.bench.models import MemoryFigures, Report, Result
from fastv_runtime.generation.clock import STAGES
from fastv_runtime.report.numbers import MIB, interval, mib, milliseconds, times
from fastv_runtime.report.svg import RIGHT, WIDTH, bar, drawing, line, text, ticks

PARTS = (*STAGES, "rest")
MEMORY = ("weights", "caches", "workspace", "libraries")
ROW, BAR, FOOT = 46, 17, 26
GAIN = 50
"""Units that a gain takes."""
INSIDE = 34
"""Units that a part must be wide for its number to stand in it."""


@dataclass(frozen=True)
class _Row:
    name: str
    whole: str
    """What stands at the right, above the bar; `gain` behind it."""
    gain: str
    parts: Mapping[str, float]
    spread: tuple[float, float] | None
    title: str


def stage_bars(report: Report, workload: str) -> str:
    """A bar per runner: the stages of its time to the first token, on the scale that all workloads share."""
    rows = []
    for runner in report.runners:
        result = report.result(runner.name, workload)
        if result is None:
            continue
        ratio = report.ratio(runner.name, workload, "ttft")
        ttft = result.figures["ttft"]
        rows.append(
            _Row(
                runner.name,
                f"{milliseconds(ttft.median)} ms",
                "" if ratio is None else times(ratio.figure.median),
                _stages(result),
                (ttft.p5, ttft.p95),
                f"{runner.name}: first token after {interval(ttft)} ms",
            )
        )
    most = max(each.figures["ttft"].p95 for each in report.results)
    return _bars(rows, most, "ms", milliseconds, f"Time to the first token by stage: {workload}")


def memory_bars(report: Report) -> str:
    """A bar per runner: its memory by meaning."""
    rows = [
        _Row(
            each.name, f"{mib(held.process)} MiB", "", _memory(held), None, f"{each.name}: peak {mib(held.process)} MiB"
        )
        for each in report.runners
        if (held := each.memory) is not None
    ]
    most = max(sum(row.parts.values()) for row in rows)
    return _bars(rows, most, "MiB", mib, "Memory by meaning")


def _stages(result: Result) -> dict[str, float]:
    """Medians of the stages, or the whole as `rest` where they are not known; the whole is that of the medians."""
    figures = result.figures
    known = {name: figures[name].median for name in PARTS if name in figures}
    ttft = figures["ttft"].median
    # Medians of parts do not add up to that of the whole: the drawing's parts are scaled to it.
    total = sum(known.values())
    return {name: value * ttft / total for name, value in known.items()} if "rest" in known else {"rest": ttft}


def _tick(value: float, scale: Sequence[float], unit: str) -> str:
    return f"{value:,g} {unit}" if value == scale[-1] else f"{value:,g}"


def _memory(held: MemoryFigures) -> dict[str, float]:
    return {name: getattr(held, name) for name in MEMORY}


def _bars(rows: Sequence[_Row], most: float, unit: str, shown: Callable[[float], str], label: str) -> str:
    size = MIB if unit == "MiB" else 1
    scale = ticks(0, most / size, 4)
    end = scale[-1] * size
    height = ROW * len(rows) + FOOT
    bottom = ROW * len(rows) + 6

    def at(value: float) -> float:
        return 1 + value / end * (WIDTH - RIGHT - 2)

    parts = []
    for tick in scale:
        x = at(tick * size)
        anchor = "start" if tick == 0 else "end" if tick == scale[-1] else "middle"
        parts.append(line((x, 18), (x, bottom), "grid") + text(x, bottom + 15, _tick(tick, scale, unit), anchor))
    for index, row in enumerate(rows):
        top = ROW * index
        parts.append(text(1, top + 13, row.name, kind="label"))
        parts.append(text(WIDTH - RIGHT - (GAIN if row.gain else 0), top + 13, row.whole, "end"))
        parts.append(text(WIDTH - RIGHT, top + 13, row.gain, "end", "gain"))
        start = 0.0
        for name, value in row.parts.items():
            left, right = at(start), at(start + value)
            parts.append(bar(left, top + 19, right - left, BAR, f"part {name}", f"{name}: {shown(value)} {unit}"))
            if right - left >= INSIDE:
                parts.append(text((left + right) / 2, top + 32, shown(value), "middle", f"inside on-{name}"))
            start += value
        if row.spread is not None:
            low, high = map(at, row.spread)
            middle = top + 19 + BAR + 2.5
            parts.append(line((low, middle), (high, middle), "interval", row.title))
    return drawing(parts, label, height)
