"""Saliency times coverage: tokens that are looked at, and that stand for many that nothing stands for yet.

SCOPE (arXiv 2510.24214) adds one token after another, that of the highest saliency times gain: by how much it would
raise the sum, over all visual tokens, of the cosine to the nearest token taken. A loop as long as the answer is no
graph for every target, so here ROUNDS rounds are written out, and each takes an equal share. SCOPE works before the
language model, by the attention of the tower's class token; here it is the last row's, and states at the cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen
from fastv_export.rankers.parts.spacing import budget

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape

ROUNDS = 16
"""A greedy choice of up to as many tokens is exact. Each round is a dozen operators on S x S cosines."""


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """ROUNDS for tokens of the first round, 1 for those of the last, 0 for others.

    Of m that stay, round r = 0, 1, ... takes floor((r + 1) m / ROUNDS) - floor(r m / ROUNDS): those of the highest
    scores * gain, ties to the lower index. gain of v: sum over prunable u of max(0, cos(u, v) - c(u)), c being u's
    largest cosine to what earlier rounds took, 0 before the first.
    """
    scores, prunable, length = inputs["scores"], inputs["prunable"], inputs["length"]
    likeness = _cosines(tape, inputs)  # [1, u, v]; rows of what is not prunable are 0, and gain nothing
    staying = budget(tape, inputs)
    # K of TopK is a shape, which data cannot decide: as many are sorted as a round may take, and the first of these.
    most = tape.op("Div", [tape.op("Add", [length, tape.constant([ROUNDS - 1])]), tape.constant([ROUNDS])])
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    place = tape.op("Range", [zero, tape.op("Squeeze", [most, tape.constant([0])]), one])
    nothing = tape.op("ConstantOfShape", [tape.op("Shape", [scores])])
    free, rank = prunable, nothing
    covered = tape.op("Unsqueeze", [nothing, tape.constant([2])])
    for number in range(ROUNDS):
        more = tape.op("Max", [tape.op("Sub", [likeness, covered]), tape.constant(0.0)])
        gain = tape.op("ReduceSum", [more, tape.constant([1])], {"keepdims": 0})
        worth = tape.op("Where", [free, tape.op("Mul", [scores, gain]), tape.constant(-1.0)])
        _, order = tape.op_multi_out("TopK", [worth, most], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
        share = tape.op("Sub", [_part(tape, staying, number + 1), _part(tape, staying, number)])
        marks = tape.to_float(tape.op("Less", [place, share]))
        taken = tape.op("ScatterElements", [nothing, order, marks], {"axis": 1})
        rank = tape.op("Add", [rank, tape.op("Mul", [taken, tape.constant(float(ROUNDS - number))])])
        if number == ROUNDS - 1:
            break
        new = tape.op("Greater", [taken, tape.constant(0.5)])
        free = tape.op("And", [free, tape.op("Not", [new])])
        theirs = tape.op("Where", [tape.op("Unsqueeze", [new, tape.constant([1])]), likeness, tape.constant(0.0)])
        nearest = tape.op("ReduceMax", [theirs, tape.constant([2])], {"keepdims": 1})
        covered = tape.op("Max", [covered, nearest])
    return rank


def _cosines(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """Of states, in fp32: f32 [1, S, S], rows of what is not prunable 0."""
    hidden = tape.to_float(inputs["hidden"])
    squares = tape.op("ReduceSum", [tape.op("Mul", [hidden, hidden]), tape.constant([2])], {"keepdims": 1})
    unit = tape.op("Div", [hidden, tape.op("Max", [tape.op("Sqrt", [squares]), tape.constant(1e-6)])])
    cosines = tape.op("MatMul", [unit, tape.op("Transpose", [unit], {"perm": [0, 2, 1]})])
    mask = tape.op("Unsqueeze", [inputs["prunable"], tape.constant([2])])
    return tape.op("Where", [mask, cosines, tape.constant(0.0)])


def _part(tape: Tape, staying: ir.Value, number: int) -> ir.Value:
    """How many so many rounds take, i64 [1, 1]."""
    return tape.op("Div", [tape.op("Mul", [staying, tape.constant([number])]), tape.constant([ROUNDS])])


def ranks(seen: Seen, length: int) -> torch.Tensor:
    import torch
    from torch.nn.functional import normalize

    visual = seen.prunable.nonzero()[:, 0]
    scores, unit = seen.scores[visual], normalize(seen.hidden[visual], dim=1, eps=1e-6)
    likeness, staying = unit @ unit.T, length - int((~seen.prunable).sum())
    covered, found = torch.zeros(len(visual)), torch.zeros(len(visual))
    for number in range(ROUNDS):
        share = (number + 1) * staying // ROUNDS - number * staying // ROUNDS
        gain = (likeness - covered[:, None]).clamp(min=0).sum(0)
        worth = torch.where(found == 0, scores * gain, -1)
        taken = worth.argsort(descending=True, stable=True)[:share]
        found[taken] = ROUNDS - number
        if share:
            covered = torch.maximum(covered, likeness[:, taken].amax(1))
    ranks = seen.scores.new_zeros(len(seen.prunable))
    ranks[visual] = found
    return ranks


RANKER = Ranker(
    name="coverage",
    summary=f"in {ROUNDS} rounds, the highest score x what a token covers (cosine) that those of earlier rounds do not",
    rank=rank,
    ranks=ranks,
)
