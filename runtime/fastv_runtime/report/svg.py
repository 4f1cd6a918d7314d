"""What drawings are made of: scales, ticks, marks. Colours are the page's, by class; marks explain themselves on hover.

Drawings are as wide as a phone, so that their text can be read on one; a page puts two side by side on a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH = 440
"""Units of a drawing; text is 12 of them high."""
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 40


@dataclass(frozen=True)
class Axes:
    """Two linear scales. `at` says where a point is drawn."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int
    left: int = LEFT

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (WIDTH - self.left - RIGHT),
            self.height - BOTTOM - up * (self.height - TOP - BOTTOM),
        )

    def columns(self, values: Sequence[float], labels: Sequence[str], title: str) -> str:
        """Lines upright at `values`, labelled below, with the axis' title."""
        parts = []
        bottom, top = self.at(0, self.y[0])[1], self.at(0, self.y[1])[1]
        for value, label in zip(values, labels, strict=True):
            x = self.at(value, self.y[0])[0]
            parts.append(line((x, top), (x, bottom), "grid") + text(x, bottom + 16, label, "middle"))
        return "".join(parts) + text((self.left + WIDTH - RIGHT) / 2, self.height - 5, title, "middle")

    def rows(self, values: Sequence[float], labels: Sequence[str]) -> str:
        """Lines across at `values`, labelled on the left."""
        parts = []
        left, right = self.at(self.x[0], 0)[0], self.at(self.x[1], 0)[0]
        for value, label in zip(values, labels, strict=True):
            y = self.at(self.x[0], value)[1]
            parts.append(line((left, y), (right, y), "grid") + text(left - 6, y + 4, label, "end"))
        return "".join(parts)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values that span `low` to `high`."""
    span = max(high - low, 1e-6 * max(abs(high), 1.0))
    size = 10 ** floor(log10(span / count))
    step = next(size * each for each in (1, 2, 2.5, 5, 10) if span / (size * each) <= count)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(step * index, 12) for index in range(first, max(last, first + 1) + 1)]


def drawing(parts: Sequence[str], label: str, height: float) -> str:
    """The SVG element; `label` says what it shows to those who cannot see it."""
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{_class(kind)}>{escape(words)}</text>'


def line(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    return f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"{_class(kind)}/>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"{_class(kind)}/>'


def bar(x: float, y: float, width: float, height: float, kind: str, title: str) -> str:
    size = f'x="{x:.2f}" y="{y:.1f}" width="{max(width, 0):.2f}" height="{height:g}"'
    return f"<rect {size}{_class(kind)}><title>{escape(title)}</title></rect>"


def dot(x: float, y: float, kind: str, title: str, radius: float = 5) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"{_class(kind)}><title>{escape(title)}</title></circle>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
