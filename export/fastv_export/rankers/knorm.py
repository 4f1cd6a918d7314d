"""Small keys stay: what is attended to most has keys of small norm, so no attention need be computed to find it.

"A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression" (arXiv 2406.11430) finds so of language models
and evicts cached keys of large norm, head by head; ViTCoP (arXiv 2601.17818) says the same of visual tokens. A token of
ours stays or goes as a whole: norms are averaged over the heads of keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    return tape.op("Neg", [inputs["key_norms"]])


def ranks(seen: Seen, length: int) -> torch.Tensor:
    return -seen.signals["key_norms"]


RANKER = Ranker(
    name="knorm",
    summary="the m with the smallest keys at layer K-1 (Euclidean norm, mean over heads): needs no scores",
    rank=rank,
    ranks=ranks,
    signals=("key_norms",),
)
