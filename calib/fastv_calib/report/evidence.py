"""What the report shows of single samples: telling examples, where tokens are kept, how long the texts are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from fastv_calib.choice.choose import best
from fastv_calib.measurement.outcomes import Measured, PlanOutcome
from fastv_calib.samples.data import Sample
from fastv_calib.samples.masks import unpacked
from fastv_export.calibration import Calibration, PlanFigures
from fastv_runtime.preprocessing import View

EXAMPLES, CHANGED = 6, 4
"""Examples, and how many of them the plan changed, if it changed so many."""
PANELS = 4
"""Most images of one example: a video has many."""
COMMON_GRID = 16
"""Places a side where images' own grids differ."""

Views = Callable[[Sample], list[View]]


@dataclass(frozen=True)
class Panel:
    """One image and which of its places are kept."""

    image: Image.Image
    kept: Bool[np.ndarray, "rows columns"]


@dataclass(frozen=True)
class Example:
    """One sample under the plan shown."""

    question: str
    unpruned: str
    pruned: str
    known: str | None
    changed: bool
    panels: list[Panel]
    left_out: int
    """Images that are not shown."""
    kept: int
    visual: int
    """Visual tokens, those kept and all."""


@dataclass(frozen=True)
class Evidence:
    """Seen under `plan`, the chosen one or the best of those that do not do."""

    plan: PlanFigures
    examples: list[Example]
    heat: dict[str, Float[np.ndarray, "rows columns"]]
    """By ranker, with the plan's cuts: the share of images in which a place is kept. NaN is no place.

    A plan whose cuts differ in their ranker is there as "by cut"."""
    own_grid: bool
    """The map's places are visual tokens; otherwise images of several grids are laid over each other."""
    texts: list[int]
    """Text tokens of each prompt."""


def gather(
    calibration: Calibration,
    samples: Sequence[Sample],
    measured: Sequence[Measured],
    views: Views,
    advance: Callable[[], None],
) -> Evidence:
    """Evidence from samples and their measurements; `advance` is called after each."""
    index = _shown(calibration)
    plan = calibration.plans[index]
    alike = {
        str(each.point.ranker or "by cut"): number
        for number, each in enumerate(calibration.plans)
        if each is plan or (each.point.ranker is not None and each.point == plan.point.ranked_by(each.point.ranker))
    }
    telling = _telling(samples, [(sample, sample.outcomes[index]) for sample in measured])
    examples: dict[int, Example] = {}
    kept: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {ranker: [] for ranker in alike}
    for number, (sample, each) in enumerate(zip(samples, measured, strict=True)):
        masks = unpacked(each.kept, len(each.outcomes), each.visual)
        seen = views(sample)
        for ranker, row in alike.items():
            kept[ranker] += [(view.tokens, _places(view, masks[row])) for view in seen]
        if number in telling:
            examples[number] = _example(sample, each, each.outcomes[index], seen, masks[index])
        advance()
    grids = {tokens.shape for tokens, _ in next(iter(kept.values()))}
    shape = grids.pop() if len(grids) == 1 else (COMMON_GRID, COMMON_GRID)
    return Evidence(
        plan=plan,
        examples=[examples[number] for number in telling],
        heat={ranker: _heat(places, shape) for ranker, places in kept.items()},
        own_grid=not grids,
        texts=[each.text for each in measured],
    )


def _shown(calibration: Calibration) -> int:
    if calibration.chosen is None:
        return best(calibration.plans)
    return [plan.point for plan in calibration.plans].index(calibration.chosen.point)


def _telling(samples: Sequence[Sample], outcomes: Sequence[tuple[Measured, PlanOutcome]]) -> list[int]:
    """Numbers of the samples to show: changed ones first, then right ones; of both the greatest divergences.

    No question and no answer is shown twice while there are others.
    """
    changed = [number for number, (_, outcome) in enumerate(outcomes) if not outcome.match]
    same = [number for number, (_, outcome) in enumerate(outcomes) if outcome.match]
    changed.sort(key=lambda number: -outcomes[number][1].kl)
    same.sort(key=lambda number: (outcomes[number][0].correct is False, -outcomes[number][1].kl))
    some = _varied(changed, samples, outcomes)
    rest = _varied(same, samples, outcomes)
    some = some[: max(CHANGED, EXAMPLES - len(rest))]
    return some + rest[: EXAMPLES - len(some)]


def _varied(
    numbers: list[int], samples: Sequence[Sample], outcomes: Sequence[tuple[Measured, PlanOutcome]]
) -> list[int]:
    """Questions and answers that were not seen yet before those that were."""
    seen: set[str] = set()
    fresh: list[int] = []
    again: list[int] = []
    for number in numbers:
        words = {samples[number].prompt, outcomes[number][0].answer}
        (again if words & seen else fresh).append(number)
        seen |= words
    return fresh + again


def _example(
    sample: Sample, measured: Measured, outcome: PlanOutcome, views: Sequence[View], kept: Bool[np.ndarray, " V"]
) -> Example:
    return Example(
        question=sample.prompt,
        unpruned=measured.answer,
        pruned=measured.answer if outcome.said is None else outcome.said,
        known=sample.answer,
        changed=not outcome.match,
        panels=[Panel(view.image, _places(view, kept)) for view in views[:PANELS]],
        left_out=max(0, len(views) - PANELS),
        kept=int(kept.sum()),
        visual=measured.visual,
    )


def _places(view: View, kept: Bool[np.ndarray, " V"]) -> Bool[np.ndarray, "rows columns"]:
    """Which places of a view are kept; one that stands for no token is not."""
    return np.where(view.tokens < 0, False, kept[view.tokens])


def _heat(images: Sequence[tuple[np.ndarray, np.ndarray]], shape: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """Share of images (tokens, kept) in which a place of a grid of `shape`, laid over each image, is kept."""
    kept, seen = np.zeros(shape), np.zeros(shape)
    for tokens, places in images:
        rows, columns = (
            ((np.arange(count) + 0.5) * size / count).astype(int)
            for count, size in zip(shape, tokens.shape, strict=True)
        )
        kept += places[np.ix_(rows, columns)]
        seen += tokens[np.ix_(rows, columns)] >= 0
    share: np.ndarray = np.divide(kept, seen, out=np.full(shape, np.nan), where=seen > 0)
    return share
