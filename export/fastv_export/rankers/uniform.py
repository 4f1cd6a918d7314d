"""Evenly spaced visual tokens: a control that sees everything coarsely."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.rankers.base import Ranker, RankerInputs
from fastv_export.rankers.spacing import budget, evenly_spaced


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """1 for the m tokens in the middle of m equal stretches of the N prunable ones, 0 for others.

    Counted among the prunable from 0, these are ceil((2j + 1) N / 2m) - 1 for j = 0 to m - 1.
    """
    stays = evenly_spaced(tape, inputs["prunable"], budget(tape, inputs))
    return tape.op("Cast", [stays], {"to": ir.DataType.FLOAT})


UNIFORM = Ranker("uniform", rank)
