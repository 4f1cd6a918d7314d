"""What measuring a prompt takes: eager attention holds a weight of every pair of its tokens, for every head."""

from __future__ import annotations

from fastv_export.calibration import CalibrationSettings
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
    them, or all rankers at once on the rows of the largest keep.
    """
    again = any(not RANKERS[name].rotary for name in settings.rankers)
    rows = length - visual + kept_count(visual, max(settings.keeps)) + settings.answer_tokens
    pairs = max((1 + again) * length**2, len(settings.rankers) * rows**2)
    return int(COPIES * 4 * heads * pairs)


def check_room(where: str, length: int, needed: int, available: int | None) -> None:
    """UserError for a prompt that does not fit into the memory that is available; None is not known."""
    if available is not None and needed > available:
        raise UserError(
            f"{where}: the prompt has {length:,} tokens, and measuring it takes about {sized(needed)} of memory, where "
            f"{sized(available)} are available: shorten it, leave it out, give fewer `rankers` or a smaller "
            "`image_tokens`; what is measured is kept"
        )
