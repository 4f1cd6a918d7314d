"""The least attended visual tokens: shows what a ranker takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    return tape.op("Neg", [inputs["scores"]])


def ranks(scores: torch.Tensor, hidden: torch.Tensor, prunable: torch.Tensor, length: int) -> torch.Tensor:
    return -scores


RANKER = Ranker(
    name="stub",
    summary="the m with the lowest scores",
    rank=rank,
    ranks=ranks,
    control=True,
)
