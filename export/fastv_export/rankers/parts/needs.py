"""What a plan must have for the rankers of its cuts."""

from __future__ import annotations

from collections.abc import Iterable

from fastv_export.rankers import RANKERS
from fastv_runtime.config.layouts import VideoLayout
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError


def crowded(cuts: Iterable[tuple[int, str]]) -> tuple[int, int, str] | None:
    """The first cut whose ranker compares the scores of two layers where the cut before, or the beginning, leaves one.

    cuts: K and ranker of each, ascending. Returns the layer of the cut before (0: the beginning), and these.
    """
    before = 0
    for layer, ranker in cuts:
        if "earlier_scores" in RANKERS[ranker].signals and layer - before < 2:
            return before, layer, ranker
        before = layer
    return None


def check_needs(plan: Plan, video: VideoLayout | None, target: str, most_picked: int | None) -> None:
    """UserError for a ranker that this model or target, or a cut's place, does not let be what it is.

    video: None for a model that takes no videos. most_picked: values that the target's TopK picks at most.
    """
    found = crowded((cut.layer, cut.ranker) for cut in plan.cuts)
    if found is not None:
        before, layer, ranker = found
        since = f"the cut at layer {before}" if before else "the decoder's beginning"
        raise UserError(
            f"`ranker` {ranker}: it compares the scores of two layers, and there is one between {since} and the cut "
            f"at layer {layer}: leave two or more, or use another ranker"
        )
    for cut, coming in zip(plan.cuts, capacity(plan).rows[:-1], strict=True):
        if "change" in cut.signals and video is None:
            raise UserError(
                f"`ranker` {cut.ranker}: it compares the frames of a video, and this model takes none: "
                "use another ranker"
            )
        if RANKERS[cut.ranker].sorts and most_picked is not None and coming > most_picked:
            raise UserError(
                f"`ranker` {cut.ranker}: it orders all of the {coming} tokens that may come to the cut at layer "
                f"{cut.layer}, and target {target} orders at most {most_picked}: "
                "lower `max_visual` or `image_tokens`, or use another ranker"
            )
