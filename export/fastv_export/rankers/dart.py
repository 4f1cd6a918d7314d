"""Duplicates go: DART, "Stop Looking for Important Tokens" (arXiv 2502.11494), in one pass over the states at the cut.

The paper picks pivots by the norm of their keys, from image and text, and adds, pivot after pivot, the tokens least
similar to each. `select` sees no keys, and a loop over pivots is no graph for every target: here pivots are the
prunable tokens of highest score, and a token is as redundant as its likeness to the nearest of them. By the norm of
their states, pivots did no better than chance where a cut is, behind an attention and before its MLP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape

PIVOTS = 4
"""As many pivots from the image as the authors' code has."""


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """Of hidden states h after layer K-1's attention, in fp32: -max over pivots p of cos(h, h_p), and 2 for the pivots.

    Pivots: the PIVOTS prunable tokens of highest score (all, if there are fewer), ties to the lower index.
    """
    hidden = tape.to_float(inputs["hidden"])
    squares = tape.op("ReduceSum", [tape.op("Mul", [hidden, hidden]), tape.constant([2])], {"keepdims": 1})
    norm = tape.op("Max", [tape.op("Sqrt", [squares]), tape.constant(1e-6)])
    unit = tape.op("Div", [hidden, norm])
    scores = tape.op("Where", [inputs["prunable"], inputs["scores"], tape.constant(-1.0)])
    count = tape.op("Min", [tape.op("Shape", [scores], {"start": 1, "end": 2}), tape.constant([PIVOTS])])
    highest, pivots = tape.op_multi_out("TopK", [scores, count], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
    # Where fewer tokens are prunable than there are pivots, others were picked: they count for nothing.
    valid = tape.op("Greater", [highest, tape.constant(-0.5)])
    rows = tape.op("Squeeze", [pivots, tape.constant([0])])
    likeness = tape.op(
        "MatMul", [unit, tape.op("Transpose", [tape.op("Gather", [unit, rows], {"axis": 1})], {"perm": [0, 2, 1]})]
    )
    likeness = tape.op("Where", [tape.op("Unsqueeze", [valid, tape.constant([1])]), likeness, tape.constant(-2.0)])
    nearest = tape.op("ReduceMax", [likeness, tape.constant([2])], {"keepdims": 0})
    # Pivots are marked by place, not by likeness: a duplicate is as near to one as it is to itself.
    marks = tape.op("Mul", [tape.to_float(valid), tape.constant(2.0)])
    return tape.op("ScatterElements", [tape.op("Neg", [nearest]), pivots, marks], {"axis": 1})


def ranks(seen: Seen, length: int) -> torch.Tensor:
    from torch.nn.functional import cosine_similarity

    visual = seen.prunable.nonzero()[:, 0]
    states = seen.hidden[visual]
    pivots = seen.signals["scores"][visual].argsort(descending=True, stable=True)[:PIVOTS]
    likeness = cosine_similarity(states[:, None], states[None, pivots], dim=-1)
    found = states.new_zeros(len(seen.hidden))
    found[visual] = -likeness.amax(dim=1)
    found[visual[pivots]] = 2
    return found


RANKER = Ranker(
    name="dart",
    summary="four pivots (the highest scores), then those whose nearest pivot is least like them (cosine)",
    rank=rank,
    ranks=ranks,
)
