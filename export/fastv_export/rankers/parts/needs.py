"""What a plan must have for the rankers of its cuts."""

from __future__ import annotations

from fastv_export.rankers import RANKERS
from fastv_runtime.config.layouts import VideoLayout
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError


def check_needs(plan: Plan, video: VideoLayout | None, target: str, most_picked: int | None) -> None:
    """UserError for a ranker that this model or target, or a cut's place, does not let be what it is.

    video: None for a model that takes no videos. most_picked: values that the target's TopK picks at most.
    """
    rows, before = capacity(plan).rows, 0
    for cut, coming in zip(plan.cuts, rows[:-1], strict=True):
        if "earlier_scores" in cut.signals and cut.layer - before < 2:
            since = f"the cut at layer {before}" if before else "the decoder's beginning"
            raise UserError(
                f"`ranker` {cut.ranker}: it compares the scores of two layers, and there is one between {since} and "
                f"the cut at layer {cut.layer}: leave two or more, or use another ranker"
            )
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
        before = cut.layer
