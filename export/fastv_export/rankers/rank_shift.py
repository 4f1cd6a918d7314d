"""What attention has come to look at: 0.6 x rank by attention, and 0.4 x how far that rank has risen since one layer.

The weights, and that the rise is clamped, are published; a paper that defines the rest was not found. As ours has it:
of N prunable tokens, r is 1 for the one with the highest score of a layer and 0 for the lowest, in equal steps, ties
to the lower index; a token's rank is 0.6 r + 0.4 max(0, r - r'), where r is of layer K-1 and r' of layer K-2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen
from fastv_export.rankers.parts.order import lower_rows

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """5 (N - 1) times the definition, and a constant: 3 p + 2 max(0, p - p') with whole numbers p, exact in fp32.

    p counts the rows below a token. All that are not prunable are below those that are, so they add the same to each.
    """
    now, before = (
        lower_rows(tape, tape.op("Where", [inputs["prunable"], inputs[name], tape.constant(float("-inf"))]))
        for name in ("scores", "earlier_scores")
    )
    risen = tape.op("Max", [tape.op("Sub", [now, before]), tape.constant(0.0)])
    return tape.op("Add", [tape.op("Mul", [now, tape.constant(3.0)]), tape.op("Mul", [risen, tape.constant(2.0)])])


def ranks(seen: Seen, length: int) -> torch.Tensor:
    """In fifths of a step: fp32 would round 0.6 r, and tell apart ranks that are equal."""
    visual = seen.prunable.nonzero()[:, 0]
    now, before = (_lower(seen.signals[name][visual]) for name in ("scores", "earlier_scores"))
    found = seen.scores.new_zeros(len(seen.prunable))
    found[visual] = (3 * now + 2 * (now - before).clamp(min=0)).float()
    return found


def _lower(scores: torch.Tensor) -> torch.Tensor:
    """How many come after each, highest first: N - 1 to 0."""
    # The order's inverse says which place each has in it.
    return len(scores) - 1 - scores.argsort(descending=True, stable=True).argsort()


RANKER = Ranker(
    name="rank-shift",
    summary="the highest 0.6 r + 0.4 max(0, r - r'): r ranks tokens by score, 1 to 0, and r' does one layer before",
    rank=rank,
    ranks=ranks,
    signals=("scores", "earlier_scores"),
    sorts=True,
)
