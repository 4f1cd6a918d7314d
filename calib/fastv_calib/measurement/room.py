"""What measuring a prompt takes: eager attention holds a weight of every pair of its tokens, for every head."""

from __future__ import annotations

from fastv_calib.plans import points
from fastv_export.calibration import CalibrationSettings
from fastv_export.points import Chain
from fastv_export.rankers import RANKERS
from fastv_runtime.config.lengths import kept_count
from fastv_runtime.errors import UserError
from fastv_runtime.files import sized

COPIES = 2.5
"""Of one layer's attention weights that are there at once: before softmax, after it, and what else a layer holds.
Measured: 2.2 to 2.3 on a prompt of 6,163 tokens, whose length hides everything else."""


def attention_bytes(heads: int, length: int, visual: int, settings: CalibrationSettings) -> int:
    """Estimated bytes, in fp32, at the worst moment of measuring a prompt of `length` tokens, `visual` of them visual.

    That is the unpruned model on the whole prompt, with scores without rotary embedding once more where a ranker wants
    them, or as many plans at once as prune to the same length at the same layer.
    """
    again = any(not RANKERS[cut.ranker].rotary for point in points(settings) for cut in point.cuts)
    by_stage: dict[tuple[int, int, int], set[Chain]] = {}
    for point in points(settings):
        for depth, cut in enumerate(point.cuts):
            stage = depth, cut.layer, kept_count(visual, cut.keep)
            by_stage.setdefault(stage, set()).add(point.cuts[: depth + 1])
    pairs = [
        len(chains) * (length - visual + kept + settings.answer_tokens) ** 2
        for (_, _, kept), chains in by_stage.items()
    ]
    return int(COPIES * 4 * heads * max((1 + again) * length**2, *pairs))


def check_room(where: str, length: int, needed: int, available: int | None) -> None:
    """UserError for a prompt that does not fit into the memory that is available; None is not known."""
    if available is not None and needed > available:
        raise UserError(
            f"{where}: the prompt has {length:,} tokens, and measuring it takes about {sized(needed)} of memory, where "
            f"{sized(available)} are available: shorten it, leave it out, give fewer `rankers`, fewer `cuts` or a "
            "smaller `image_tokens`; what is measured is kept"
        )
