"""Evenly spaced visual tokens: everything is seen coarsely, whatever the question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen
from fastv_export.rankers.parts.spacing import budget, evenly_spaced, middles

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """1 for the m tokens in the middle of m equal stretches of the N prunable ones, 0 for others.

    Counted among the prunable from 0, these are ceil((2j + 1) N / 2m) - 1 for j = 0 to m - 1.
    """
    stays = evenly_spaced(tape, inputs["prunable"], budget(tape, inputs))
    return tape.to_float(stays)


def ranks(seen: Seen, length: int) -> torch.Tensor:
    prunable = seen.prunable
    found, visual = seen.scores.new_zeros(len(prunable)), prunable.nonzero()[:, 0]
    found[visual[middles(len(visual), length - int((~prunable).sum()))]] = 1
    return found


RANKER = Ranker(
    name="uniform",
    summary="the middles of m equal stretches, in the prompt's order: everything coarsely, whatever the question",
    rank=rank,
    ranks=ranks,
    control=True,
)
