"""A control that knows nothing, yet answers the same at every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import Ranker, RankerInputs, Seen

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape


def rank(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """A hash of index and prompt.

    frac(sin(x) * 43758.5453) is the customary stateless noise; the first token's score only seeds it per prompt.
    """
    scores = inputs["scores"]

    def scaled(value: ir.Value, factor: float) -> ir.Value:
        return tape.op("Mul", [value, tape.constant(factor)])

    first = tape.op("Slice", [scores, tape.constant([0]), tape.constant([1]), tape.constant([1])])
    length = tape.op("Shape", [scores], {"start": 1, "end": 2})
    last = tape.op("Squeeze", [length, tape.constant([0])])
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    index = tape.to_float(tape.op("Range", [zero, last, one]))
    angle = tape.op("Add", [scaled(index, 12.9898), scaled(first, 78.233e4)])
    noise = scaled(tape.op("Sin", [angle]), 43758.5453)
    return tape.op("Sub", [noise, tape.op("Floor", [noise])])


def ranks(seen: Seen, length: int) -> torch.Tensor:
    """The same hash. Its sine's last bits are each library's own, and scaling makes much of them."""
    import torch

    scores = seen.scores
    noise = torch.sin(torch.arange(len(scores)).float() * 12.9898 + scores[0] * 78.233e4) * 43758.5453
    return noise - noise.floor()


RANKER = Ranker(
    name="random",
    summary="by a hash of index and prompt: a control that knows nothing",
    rank=rank,
    ranks=ranks,
    control=True,
    portable=False,
)
