"""What has not changed since the frame before goes first, of videos.

Efficient Video Sampling (arXiv 2510.14624) drops patches that are static from one frame to the next, before the model.
It compares pixels; here it is the features that the decoder is given, and the signal is the runtime's, since no graph
knows where a frame ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """Score + (change - 1). Where nothing was before, change is 1, and that is the score itself, to the last bit."""
    return tape.op("Add", [inputs["scores"], tape.op("Sub", [inputs["change"], tape.constant(1.0)])])


def ranks(seen: Seen, length: int) -> torch.Tensor:
    return seen.scores + (seen.signals["change"] - 1)


RANKER = Ranker(
    name="frame-change",
    summary="the highest score + change: 1 - cosine to the same place one frame before; 1 in first frames and images",
    rank=rank,
    ranks=ranks,
    signals=("scores", "change"),
)
