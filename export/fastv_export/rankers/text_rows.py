"""Scores of the last rows of text, not of the very last alone: what the question's words look at.

The last row of a prompt is the template's: it asks for the next token, not for what was asked. SparseVLM (arXiv
2410.04417) lets the words that look at the image most choose, wherever they stand; here it is the last TEXT_ROWS rows
that are text, which a graph of fixed shape can hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """The sum of the scores of those of the last TEXT_ROWS rows that are not prunable; of the last, if there is none.

    Of a prompt of fewer rows, the first stands for those that are missing: it counts once.
    """
    import numpy as np

    from fastv_runtime.config.cuts import TEXT_ROWS

    prunable, by_rows = inputs["prunable"], inputs["row_scores"]
    offset = tape.op("Sub", [tape.op("Shape", [prunable], {"start": 1, "end": 2}), tape.constant([TEXT_ROWS])])
    row = tape.op("Add", [tape.constant(np.arange(TEXT_ROWS)), offset])
    there = tape.op("GreaterOrEqual", [row, tape.constant([0])])
    places = tape.op("Max", [row, tape.constant([0])])
    text = tape.op("Not", [tape.op("Gather", [prunable, places], {"axis": 1})])
    asking = tape.to_float(tape.op("And", [text, there]))
    any_text = tape.op("ReduceMax", [asking, tape.constant([1])], {"keepdims": 1})
    last = tape.constant(np.eye(TEXT_ROWS, dtype=np.float32)[None, -1])
    asking = tape.op("Where", [tape.op("Greater", [any_text, tape.constant(0.5)]), asking, last])
    weighted = tape.op("Mul", [by_rows, tape.op("Unsqueeze", [asking, tape.constant([2])])])
    return tape.op("ReduceSum", [weighted, tape.constant([1])], {"keepdims": 0})


def ranks(seen: Seen, length: int) -> torch.Tensor:
    from fastv_runtime.config.cuts import TEXT_ROWS

    rows = min(TEXT_ROWS, len(seen.prunable))
    by_rows, text = seen.signals["row_scores"][-rows:], ~seen.prunable[-rows:]
    return by_rows[text].sum(0) if text.any() else by_rows[-1]


RANKER = Ranker(
    name="text-rows",
    summary="the highest scores by the rows of text among the prompt's last eight, not by its last row alone",
    rank=rank,
    ranks=ranks,
    signals=("row_scores",),
)
