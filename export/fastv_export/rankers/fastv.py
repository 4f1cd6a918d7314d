"""FastV's own ranker: the score is the rank (arXiv 2403.06764)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    return inputs["scores"]


def ranks(seen: Seen, length: int) -> torch.Tensor:
    return seen.scores


RANKER = Ranker(
    name="fastv",
    summary="the m with the highest scores: the paper's choice",
    rank=rank,
    ranks=ranks,
)
