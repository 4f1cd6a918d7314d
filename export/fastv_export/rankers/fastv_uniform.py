"""Half by score, half evenly spaced: what attention finds, and something of everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen
from fastv_export.rankers.parts.spacing import budget, evenly_spaced, middles

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """1 for the m tokens that stay, 0 for others: the ceil(m / 2) best scored, ties to the lower index, and
    floor(m / 2) of the prunable tokens left, in the middle of equal stretches of these (as `uniform` has it).
    """
    scores, prunable, length = inputs["scores"], inputs["prunable"], inputs["length"]
    staying = budget(tape, inputs)
    by_score = tape.op("Div", [tape.op("Add", [staying, tape.constant([1])]), tape.constant([2])])
    # TensorRT's K is a shape, which data cannot decide: as many are sorted as ever stay, and the first of these taken.
    ranked = tape.op("Where", [prunable, scores, tape.constant(float("-inf"))])
    _, order = tape.op_multi_out("TopK", [ranked, length], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    place = tape.op("Range", [zero, tape.op("Squeeze", [length, tape.constant([0])]), one])
    taken = tape.to_float(tape.op("Less", [place, by_score]))
    nothing = tape.op("ConstantOfShape", [tape.op("Shape", [scores])])
    marks = tape.op("ScatterElements", [nothing, order, taken], {"axis": 1})
    best = tape.op("Greater", [marks, tape.constant(0.5)])
    left = tape.op("And", [prunable, tape.op("Not", [best])])
    spaced = evenly_spaced(tape, left, tape.op("Sub", [staying, by_score]))
    return tape.to_float(tape.op("Or", [best, spaced]))


def ranks(seen: Seen, length: int) -> torch.Tensor:
    scores, prunable = seen.scores, seen.prunable
    found, visual = scores.new_zeros(len(scores)), prunable.nonzero()[:, 0]
    staying = length - int((~prunable).sum())
    order = scores[visual].argsort(descending=True, stable=True)
    found[visual[order[: staying - staying // 2]]] = 1
    left = visual[found[visual] == 0]
    found[left[middles(len(left), staying // 2)]] = 1
    return found


RANKER = Ranker(
    name="fastv+uniform",
    summary="the ceil(m/2) with the highest scores, and floor(m/2) of the others as `uniform` takes them",
    rank=rank,
    ranks=ranks,
)
