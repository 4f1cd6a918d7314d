"""Duplicates go: DART, "Stop Looking for Important Tokens" (arXiv 2502.11494), in one pass over the states at the cut.

The paper picks pivots by the norm of their keys, from image and text, and adds, pivot after pivot, the tokens least
similar to each. `select` sees no keys, and a loop over pivots is no graph for every target: here pivots are the
prunable tokens of largest state, and a token is as redundant as its likeness to the nearest of them.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.graphs.constants import constant
from fastv_export.rankers.base import Ranker, RankerInputs

PIVOTS = 4
"""As many pivots from the image as the authors' code has."""


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """Of hidden states h after layer K-1's attention, in fp32: -max over pivots p of cos(h, h_p), and 2 for the pivots.

    Pivots: the PIVOTS prunable tokens of largest Euclidean norm (all, if there are fewer), ties to the lower index.
    """
    hidden = tape.op("Cast", [inputs["hidden"]], {"to": ir.DataType.FLOAT})
    squares = tape.op("ReduceSum", [tape.op("Mul", [hidden, hidden]), constant(tape, [2])], {"keepdims": 1})
    norm = tape.op("Max", [tape.op("Sqrt", [squares]), constant(tape, 1e-6)])
    unit = tape.op("Div", [hidden, norm])
    sizes = tape.op("Squeeze", [norm, constant(tape, [2])])
    sizes = tape.op("Where", [inputs["prunable"], sizes, constant(tape, -1.0)])
    count = tape.op("Min", [tape.op("Shape", [sizes], {"start": 1, "end": 2}), constant(tape, [PIVOTS])])
    largest, pivots = tape.op_multi_out("TopK", [sizes, count], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
    # Where fewer tokens are prunable than there are pivots, others were picked: they count for nothing.
    valid = tape.op("Greater", [largest, constant(tape, 0.0)])
    rows = tape.op("Squeeze", [pivots, constant(tape, [0])])
    likeness = tape.op(
        "MatMul", [unit, tape.op("Transpose", [tape.op("Gather", [unit, rows], {"axis": 1})], {"perm": [0, 2, 1]})]
    )
    likeness = tape.op("Where", [tape.op("Unsqueeze", [valid, constant(tape, [1])]), likeness, constant(tape, -2.0)])
    nearest = tape.op("ReduceMax", [likeness, constant(tape, [2])], {"keepdims": 0})
    # Pivots are marked by place, not by likeness: a duplicate is as near to one as it is to itself.
    marks = tape.op("Mul", [tape.op("Cast", [valid], {"to": ir.DataType.FLOAT}), constant(tape, 2.0)])
    return tape.op("ScatterElements", [tape.op("Neg", [nearest]), pivots, marks], {"axis": 1})


DART = Ranker("dart", rank)
