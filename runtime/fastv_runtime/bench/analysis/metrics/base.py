"""What a metric of a report is: how it is read off a round, where it is shown and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fastv_runtime.bench.models import BundleFacts, Round

Pair = tuple[Round, Round]
"""A round of the baseline's and the runner's own of the same index and workload."""


@dataclass(frozen=True)
class Gain:
    """That a metric, less of which is better, has a ratio to the baseline's: that one's value by the runner's own."""

    words: str
    """What it is in verdicts: "the first token"."""
    bound: Callable[[BundleFacts, Sequence[Pair]], float | None] | None = None
    """The ratio that arithmetic allows a bundle at most, given its pairs on one workload, at least one. None, as its
    value too: arithmetic says nothing."""
    no_gain: str = "nothing to prune"
    """Why the bound is next to 1 where it is."""


@dataclass(frozen=True)
class Metric:
    """One quantity of a report. Its figures are shown with three digits that matter, whatever the unit."""

    name: str
    """By which the report's JSON calls it: unique."""
    label: str
    """Heading of its column. Names the unit where that is not milliseconds."""
    measured: Callable[[Round], float | None]
    """Its value in a round, or None where the round does not know it."""
    unit: str = "ms"
    gain: Gain | None = None
    """None: it is not compared with the baseline's."""
    judged: bool = False
    """Whether a comparison of reports calls more of it worse and less of it better."""
    leading: bool = False
    """One of the few that a report is read for: the terminal says its verdict, and a wide spread of it is noise."""
    smallest_table: Literal["page", "markdown", "terminal"] = "page"
    """Which tables have a column of it: the page has all, the Markdown those of the terminal and more, and the terminal
    as many as 80 columns allow."""

    @property
    def label_with_unit(self) -> str:
        return f"{self.label} ms" if self.unit == "ms" else self.label
