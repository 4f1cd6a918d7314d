"""Scores of the few heads that look: those whose attention varies most over the image.

Most heads give visual tokens all but nothing, or all the same, and their mean hides what few of them look at. How heads
are to be chosen is said in one sentence where this was published (six, by variance); nothing else of it was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape

HEADS = 6
"""As many as the published figures are of."""


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """The sum over the HEADS heads (all, if there are fewer) of the largest N sum(a^2) - sum(a)^2, ties to the lower.

    Sums are over the N prunable tokens: that is N^2 times the variance. It is of attention as it is, not divided by
    what a head gives the image in all: of a head that gives it next to nothing, the rest would be noise.
    """
    heads = inputs["head_scores"]
    assert heads.shape is not None
    there = heads.shape[1]
    assert isinstance(there, int)
    mask = tape.op("Unsqueeze", [inputs["prunable"], tape.constant([1])])
    seen = tape.op("Where", [mask, heads, tape.constant(0.0)])
    count, total, squares = (
        tape.op("ReduceSum", [each, tape.constant([2])], {"keepdims": 0})
        for each in (tape.to_float(mask), seen, tape.op("Mul", [seen, seen]))
    )
    spread = tape.op("Sub", [tape.op("Mul", [count, squares]), tape.op("Mul", [total, total])])
    few = tape.constant([min(HEADS, there)])
    _, varied = tape.op_multi_out("TopK", [spread, few], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
    chosen = tape.op("Gather", [seen, tape.op("Squeeze", [varied, tape.constant([0])])], {"axis": 1})
    return tape.op("ReduceSum", [chosen, tape.constant([1])], {"keepdims": 0})


def ranks(seen: Seen, length: int) -> torch.Tensor:
    heads = seen.signals["head_scores"]
    image = heads[:, seen.prunable]
    # Without a division: variances that are equal stay equal.
    spread = image.shape[1] * image.square().sum(1) - image.sum(1).square()
    return heads[spread.argsort(descending=True, stable=True)[:HEADS]].sum(0)


RANKER = Ranker(
    name="varied-heads",
    summary="the highest scores of the six heads (or all) whose scores vary most over the visual tokens",
    rank=rank,
    ranks=ranks,
    signals=("head_scores",),
)
