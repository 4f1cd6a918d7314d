"""Places in an order, in operators that every target has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from fastv_export.graphs.tape import Tape


def lower_rows(tape: Tape, values: ir.Value) -> ir.Value:
    """How many of the S rows come after each one, largest value first and ties to the lower index: f32 [1, S].

    S - 1 for the first and 0 for the last. One TopK of all rows, whose places are scattered back.
    """
    rows = tape.op("Shape", [values], {"start": 1, "end": 2})
    _, order = tape.op_multi_out("TopK", [values, rows], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    place = tape.op("Range", [zero, tape.op("Squeeze", [rows, tape.constant([0])]), one])
    after = tape.op("Sub", [tape.op("Sub", [rows, tape.constant([1])]), place])
    counted = tape.op("Unsqueeze", [tape.to_float(after), tape.constant([0])])
    nothing = tape.op("ConstantOfShape", [tape.op("Shape", [values])])
    return tape.op("ScatterElements", [nothing, order, counted], {"axis": 1})
