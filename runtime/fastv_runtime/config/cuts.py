"""A cut: where visual tokens are dropped, how many, and by what. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fastv_runtime.config.base import Size, StrictModel

MOST_CUTS = 8
"""Each is a call more for every token that is decoded, and published plans have three at most."""
TEXT_ROWS = 8
"""Rows of the prompt's end in `row_scores`: more than a chat template puts behind a question."""

Signal = Literal["scores", "earlier_scores", "head_scores", "row_scores", "key_norms", "change"]
"""What a ranker reads of a prompt's S rows, beside their states at the cut; f32 all.

`scores` [1, S]: attention of the last row at the scored layer K-1, mean over heads. `earlier_scores` [1, S]: the same
one layer before. `head_scores` [1, H, S]: of each head. `row_scores` [1, TEXT_ROWS, S]: of the last rows, mean over
heads. `key_norms` [1, S]: Euclidean norm of a row's keys, mean over heads. `change` [1, S]: how unlike a video's token
is to that in its place in the frame before: the runtime gives it, the others are the graph's before the cut.
"""
ATTENTION_SIGNALS: tuple[Signal, ...] = ("scores", "earlier_scores", "head_scores", "row_scores")
"""Those of attention to rows: a graph gives them for its whole KV cache, C keys, of which S are filled; 0 behind those.
So a graph that is given the last rows of a prompt alone, the others being in its cache, still gives them for all."""


class Cut(StrictModel):
    """FastV's cut: of a prompt's visual tokens as many stay from layer K on, chosen by what is seen before it."""

    layer: Size
    """K. The attention of layer K-1 is the last to see all rows that come to the cut."""
    keep: float = Field(gt=0, le=1, allow_inf_nan=False)
    """Fraction of the prompt's visual tokens, whatever earlier cuts left of them."""
    ranker: str = Field(min_length=1, max_length=1000)
    """How the visual tokens that stay are chosen: the select graph does it, this is its name."""
    signals: tuple[Signal, ...] = ("scores",)
    """What that graph reads for it, in this order."""
    rotary: bool = True
    """Whether `scores` are of queries and keys as attention has them, after rotary embedding. Keys without it are in no
    cache: scores of those are [1, S], of the rows that a graph is given."""


def one_cut(layer: int | None, keep: float, ranker: str = "fastv") -> tuple[Cut, ...]:
    """The cuts of a plan that has one, by scores; none where `layer` is None."""
    return () if layer is None else (Cut(layer=layer, keep=keep, ranker=ranker),)
