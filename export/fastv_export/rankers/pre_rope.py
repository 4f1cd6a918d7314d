"""Scores without rotary embedding, against the bias of attention to what is near.

Rotary embedding makes a query favour keys close to it, so that FastV keeps the visual tokens at the prompt's end, the
bottom of an image. Here the last row's scores at layer K-1 come from queries and keys as they are before it
(`fastv_export.tracing.pre_rope`); the softmax runs over the whole prompt as before.
"""

from __future__ import annotations

from fastv_export.rankers.base import Ranker
from fastv_export.rankers.fastv import rank, ranks

RANKER = Ranker(
    name="pre-rope",
    summary="the highest scores, computed from queries and keys before rotary embedding: nearness is not favoured",
    rank=rank,
    ranks=ranks,
    rotary=False,
)
