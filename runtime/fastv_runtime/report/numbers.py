"""Numbers as a report writes them."""

from __future__ import annotations

from fastv_runtime.bench.models import Figure

MIB = 2**20


def milliseconds(value: float) -> str:
    """Three digits that matter: 1,041 or 57.4 or 0.84."""
    return f"{value:,.{_digits(value)}f}"


def interval(figure: Figure | None) -> str:
    """Median, and between what values nine of ten lie, as precisely as the median."""
    if figure is None:
        return "–"
    digits = _digits(figure.median)
    return f"{figure.median:,.{digits}f} ({figure.p5:,.{digits}f}–{figure.p95:,.{digits}f})"


def times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def times_interval(figure: Figure) -> str:
    return f"{figure.median:.2f}× ({figure.p5:.2f}–{figure.p95:.2f})"


def mib(count: float) -> str:
    return f"{count / MIB:,.0f}"


def _digits(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
