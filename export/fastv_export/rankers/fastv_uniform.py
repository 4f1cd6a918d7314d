"""Half by score, half evenly spaced: what attention finds, and something of everything else."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.graphs.constants import constant
from fastv_export.rankers.base import Ranker, RankerInputs
from fastv_export.rankers.spacing import budget, evenly_spaced


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """1 for the m tokens that stay, 0 for others: the ceil(m / 2) best scored, ties to the lower index, and
    floor(m / 2) of the prunable tokens left, in the middle of equal stretches of these (as `uniform` has it).
    """
    scores, prunable, length = inputs["scores"], inputs["prunable"], inputs["length"]
    staying = budget(tape, inputs)
    by_score = tape.op("Div", [tape.op("Add", [staying, constant(tape, [1])]), constant(tape, [2])])
    # TensorRT's K is a shape, which data cannot decide: as many are sorted as ever stay, and the first of these taken.
    ranked = tape.op("Where", [prunable, scores, constant(tape, float("-inf"))])
    _, order = tape.op_multi_out("TopK", [ranked, length], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    place = tape.op("Range", [zero, tape.op("Squeeze", [length, constant(tape, [0])]), one])
    taken = tape.op("Cast", [tape.op("Less", [place, by_score])], {"to": ir.DataType.FLOAT})
    nothing = tape.op("ConstantOfShape", [tape.op("Shape", [scores])])
    marks = tape.op("ScatterElements", [nothing, order, taken], {"axis": 1})
    best = tape.op("Greater", [marks, constant(tape, 0.5)])
    left = tape.op("And", [prunable, tape.op("Not", [best])])
    spaced = evenly_spaced(tape, left, tape.op("Sub", [staying, by_score]))
    return tape.op("Cast", [tape.op("Or", [best, spaced])], {"to": ir.DataType.FLOAT})


FASTV_UNIFORM = Ranker("fastv+uniform", rank)
