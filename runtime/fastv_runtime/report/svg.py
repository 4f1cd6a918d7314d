"""What drawings are made of: scales, ticks, marks. Colours are the page's, by class; marks explain themselves on hover.

Drawings are as wide as a phone unless they say otherwise, so that their text can be read on one; a page puts two side
by side on a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10, sqrt

WIDTH = 440
"""Units of a drawing; text is 12 of them high."""
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 40

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Ticks of a stretched scale."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """Two scales, linear unless `stretched`. `at` says where a point is drawn."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM
    """Room around the axes."""
    width: float = WIDTH
    gap: float = 6
    """Between an axis and its labels."""
    stretched: bool = False
    """Towards the upper end of y: as high as the root of what is missing to that end is small."""

    def at(self, x: float, y: float) -> Point:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        up = 1 - sqrt(1 - up) if self.stretched else up
        return (
            self.left + across * (self.width - self.left - self.right),
            self.height - self.bottom - up * (self.height - self.top - self.bottom),
        )

    def columns(self, values: Sequence[float], labels: Sequence[str], title: str, *, lines: bool = True) -> str:
        """Labels below `values`, with the axis' title, and lines upright at them."""
        parts = []
        bottom, top = self.at(0, self.y[0])[1], self.at(0, self.y[1])[1]
        for value, label in zip(values, labels, strict=True):
            x = self.at(value, self.y[0])[0]
            upright = line((x, top), (x, bottom), "grid") if lines else ""
            parts.append(upright + text(x, bottom + self.gap + 10, label, "middle"))
        middle = (self.left + self.width - self.right) / 2
        return "".join(parts) + text(middle, self.height - self.gap + 1, title, "middle")

    def rows(self, values: Sequence[float], labels: Sequence[str]) -> str:
        """Lines across at `values`, labelled on the left."""
        parts = []
        left, right = self.at(self.x[0], 0)[0], self.at(self.x[1], 0)[0]
        for value, label in zip(values, labels, strict=True):
            y = self.at(self.x[0], value)[1]
            parts.append(line((left, y), (right, y), "grid") + text(left - self.gap, y + 4, label, "end"))
        return "".join(parts)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values that span `low` to `high`."""
    span = max(high - low, 1e-6 * max(abs(high), 1.0))
    size = 10 ** floor(log10(span / count))
    step = next(size * each for each in (1, 2, 2.5, 5, 10) if span / (size * each) <= count)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(step * index, 12) for index in range(first, max(last, first + 1) + 1)]


def share_ticks(lowest: float) -> list[float]:
    """Of a stretched scale: from a round value that is not above `lowest` to 1."""
    first = max(tick for tick in SHARES[:-1] if tick <= lowest)
    return [tick for tick in SHARES if tick >= first]


def drawing(parts: Sequence[str], label: str, height: float, width: float = WIDTH) -> str:
    """The SVG element; `label` says what it shows to those who cannot see it."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def group(parts: Sequence[str], kind: str = "", title: str = "", **data: object) -> str:
    """Marks that share a class and what is said on hover; `data` become the element's `data-` attributes."""
    known = "".join(f' data-{name}="{escape(str(value))}"' for name, value in data.items())
    return f"<g{_class(kind)}{known}>{_title(title)}{''.join(parts)}</g>"


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{_class(kind)}>{escape(words)}</text>'


def line(start: Point, end: Point, kind: str, title: str = "") -> str:
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f"<line {ends}{_class(kind)}>{_title(title)}</line>"


def path(points: Sequence[Point], kind: str) -> str:
    return f'<polyline points="{_points(points)}"{_class(kind)}/>'


def bar(x: float, y: float, width: float, height: float, kind: str, title: str) -> str:
    size = f'x="{x:.2f}" y="{y:.1f}" width="{max(width, 0):.2f}" height="{height:g}"'
    return f"<rect {size}{_class(kind)}>{_title(title)}</rect>"


def dot(x: float, y: float, kind: str = "", title: str = "", radius: float = 5) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"{_class(kind)}>{_title(title)}</circle>'


def mark(shape: int, x: float, y: float, size: float) -> str:
    """A circle, square, triangle or diamond, in turn; `size` is half of its width."""
    corners = [
        None,
        [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        [(0, -1.3), (1.2, 1), (-1.2, 1)],
        [(0, -sqrt(2)), (sqrt(2), 0), (0, sqrt(2)), (-sqrt(2), 0)],
    ][shape % 4]
    if corners is None:
        return dot(x, y, radius=size)
    return f'<polygon points="{_points([(x + dx * size, y + dy * size) for dx, dy in corners])}"/>'


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _title(words: str) -> str:
    return f"<title>{escape(words)}</title>" if words else ""
