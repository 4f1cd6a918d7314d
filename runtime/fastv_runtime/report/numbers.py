"""Numbers as a report writes them."""

from __future__ import annotations

from typing import Protocol

MIB = 2**20


class Percentiles(Protocol):
    """Of a quantity's repeats: the median, and between what values nine of ten lie."""

    @property
    def median(self) -> float: ...
    @property
    def p5(self) -> float: ...
    @property
    def p95(self) -> float: ...


def milliseconds(value: float) -> str:
    """Three digits that matter: 1,041 or 57.4 or 0.84."""
    return f"{value:,.{_digits(value)}f}"


def spread(median: float, low: float, high: float) -> str:
    """Median, and between what values nine of ten lie, as precisely as the median."""
    digits = _digits(median)
    return f"{median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def interval(figure: Percentiles | None) -> str:
    """The `spread` of a figure, or a dash for none."""
    return "–" if figure is None else spread(figure.median, figure.p5, figure.p95)


def times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def times_interval(figure: Percentiles) -> str:
    return f"{figure.median:.2f}× ({figure.p5:.2f}–{figure.p95:.2f})"


def share(value: float) -> str:
    return f"{value:.1%}"


def share_interval(mean: float, low: float, high: float) -> str:
    """A share and its interval: 97.0% (91.5–99.0)."""
    return f"{share(mean)} ({low * 100:.1f}–{high * 100:.1f})"


def mib(count: float, digits: int = 0) -> str:
    return f"{count / MIB:,.{digits}f}"


def _digits(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
