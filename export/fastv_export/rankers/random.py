"""A control that knows nothing, yet answers the same at every run."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.graphs.constants import constant
from fastv_export.rankers.base import Ranker, RankerInputs


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """A hash of index and prompt.

    frac(sin(x) * 43758.5453) is the customary stateless noise; the first token's score only seeds it per prompt.
    """
    scores = inputs["scores"]

    def scaled(value: ir.Value, factor: float) -> ir.Value:
        return tape.op("Mul", [value, constant(tape, factor)])

    first = tape.op("Slice", [scores, constant(tape, [0]), constant(tape, [1]), constant(tape, [1])])
    length = tape.op("Shape", [scores], {"start": 1, "end": 2})
    last = tape.op("Squeeze", [length, constant(tape, [0])])
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    index = tape.op("Cast", [tape.op("Range", [zero, last, one])], {"to": ir.DataType.FLOAT})
    angle = tape.op("Add", [scaled(index, 12.9898), scaled(first, 78.233e4)])
    noise = scaled(tape.op("Sin", [angle]), 43758.5453)
    return tape.op("Sub", [noise, tape.op("Floor", [noise])])


RANDOM = Ranker("random", rank)
