"""FastV's own ranker: the score is the rank (arXiv 2403.06764)."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.rankers.base import Ranker, RankerInputs


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    return inputs["scores"]


FASTV = Ranker("fastv", rank)
