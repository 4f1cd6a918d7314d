"""Which rows of a prompt a stage need not run, since its caches hold them from the prompt before. Pure.

Rows are numbered as in the prompt. What a layer makes of a row depends on the rows before it that the layer sees: a
stage's caches stay as they are up to the first row that is another than the stage was given last time, or of which the
stage before makes something else. So what is unchanged is a bound on row numbers, which each stage in turn lowers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.config.cuts import TEXT_ROWS
from fastv_runtime.config.plan import Stage

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


def held_rows(given: Sequence[Int[np.ndarray, " M"]], total: int, stepped: int) -> list[np.ndarray]:
    """Which rows each stage's caches hold.

    given: rows of the last prompt, of `total`, that each stage was given; `stepped` tokens were run behind it.
    """
    behind = np.arange(total, total + stepped)
    return [np.concatenate([rows, behind]) for rows in given]


def unchanged_rows(given: Int[np.ndarray, " M"], same: int, bound: int) -> int:
    """The bound for what comes behind a stage that is given other rows from place `same` on: rows before it are what
    they were. bound: that of the stage's own rows."""
    return bound if same == given.size else min(bound, int(given[same]))


def first_to_run(stage: Stage, cached: int, stored: int, rows: int) -> int:
    """The first of its rows that a stage must run, of which `cached` are in its caches.

    stored: states at a cut are kept of so many rows: those of the prompt, not those stepped behind it. Of the last rows
    more than one is run where a cut reads scores of more.
    """
    if stage.cut is None:
        return max(0, min(cached, rows - 1))
    if not stage.cut.rotary:
        return 0
    return max(0, min(cached, stored, rows - TEXT_ROWS))


def same_rows(chosen: Int[np.ndarray, " M"], held: Int[np.ndarray, " H"]) -> int:
    """How many rows at the start are the same."""
    same = chosen[: held.size] == held[: chosen.size]
    return int(same.size if same.all() else np.argmin(same))


def standing_rows(
    chosen: Int[np.ndarray, " M"],
    came: Int[np.ndarray, " S"],
    held: Int[np.ndarray, " H"],
    prunable: Bool[np.ndarray, " S"],
    stay: float,
) -> Int[np.ndarray, " M"] | None:
    """Rows of a stage whose visual tokens stay as they are; None where the cut is to be new.

    chosen: what the cut would leave, of the rows that `came` to it. They stay where every row behind those that are
    held is text, and at least the share `stay` of the visual tokens in `chosen` is among them.
    """
    if not held.size:
        return None
    new = np.arange(held[-1] + 1, prunable.size)
    standing = np.concatenate([held, new])
    if prunable[new].any() or not np.isin(standing, came).all():
        return None
    wanted, kept = chosen[prunable[chosen]], held[prunable[held]]
    return standing if np.isin(wanted, kept).sum() >= stay * wanted.size else None
