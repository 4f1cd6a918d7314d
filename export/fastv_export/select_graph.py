"""The select graph: the gather between prefix and suffix. No weights, so it is written as a graph, not traced."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

Ranker = Callable[[Tape, ir.Value], ir.Value]
"""(tape, scores f32[1,S]) -> ranks f32[1,S]; the highest stay."""


def attention_rank(tape: Tape, scores: ir.Value) -> ir.Value:
    """FastV's own: the score is the rank."""
    return scores


def random_rank(tape: Tape, scores: ir.Value) -> ir.Value:
    """A control that knows nothing, yet answers the same at every run: a hash of index and prompt.

    frac(sin(x) * 43758.5453) is the customary stateless noise; the first token's score only seeds it per prompt.
    """

    def scaled(value: ir.Value, factor: float) -> ir.Value:
        return tape.op("Mul", [value, constant(tape, factor)])

    first = tape.op("Slice", [scores, constant(tape, [0]), constant(tape, [1]), constant(tape, [1])])
    length = tape.op("Shape", [scores], {"start": 1, "end": 2})
    last = tape.op("Squeeze", [length, constant(tape, [0])])
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    index = tape.op("Cast", [tape.op("Range", [zero, last, one])], {"to": ir.DataType.FLOAT})
    angle = tape.op("Add", [scaled(index, 12.9898), scaled(first, 78.233e4)])
    noise = scaled(tape.op("Sin", [angle]), 43758.5453)
    return tape.op("Sub", [noise, tape.op("Floor", [noise])])


RANKERS: dict[str, Ranker] = {"fastv": attention_rank, "random": random_rank}


def build_select(inputs: dict[str, ir.Value], opset: int, ranker: str) -> ir.Model:
    """`length` rows stay, in their order and with their positions; tokens that are not prunable always do.

    inputs: the graph's inputs by name, as the contract declares them.
    Ties go to the lower index, as ONNX's TopK defines it. Outputs: pruned_hidden, pruned_position_ids, keep, and
    the deepstack inputs' kept rows.
    """
    tape = Tape()
    position_ids, length = inputs["position_ids"], inputs["length"]
    rank = RANKERS[ranker](tape, inputs["scores"])
    ranked = tape.op("Where", [inputs["prunable"], rank, constant(tape, float("inf"))])
    _, chosen = tape.op_multi_out("TopK", [ranked, length], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
    # TopK again, smallest first, sorts: TensorRT has no Sort. fp32 holds every index below 2^24 exactly.
    as_float = tape.op("Cast", [chosen], {"to": ir.DataType.FLOAT})
    ascending, _ = tape.op_multi_out("TopK", [as_float, length], {"axis": 1, "largest": 0, "sorted": 1}, num_outputs=2)
    keep = tape.op("Cast", [ascending], {"to": ir.DataType.INT64})
    kept_rows = tape.op("Squeeze", [keep, constant(tape, [0])])
    pruned_hidden = tape.op("Gather", [inputs["hidden"], kept_rows], {"axis": 1})
    assert position_ids.shape is not None
    pruned_position_ids = tape.op("Gather", [position_ids, kept_rows], {"axis": len(position_ids.shape) - 1})
    deepstack = [
        tape.op("Gather", [value, kept_rows], {"axis": 1})
        for name, value in inputs.items()
        if name.startswith("deepstack_")
    ]
    graph = ir.Graph(
        list(inputs.values()),
        [pruned_hidden, pruned_position_ids, keep, *deepstack],
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": opset},
        name="select",
    )
    return ir.Model(graph, ir_version=11)


def constant(tape: Tape, value: float | list[int]) -> ir.Value:
    """A constant: f32 scalar or i64 vector."""
    array = np.asarray(value, np.int64 if isinstance(value, list) else np.float32)
    return tape.op("Constant", [], {"value": ir.tensor(array)})
