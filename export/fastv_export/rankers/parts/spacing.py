"""Evenly spaced members of a mask: in operators that every target has, and as plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_export.rankers.base import RankerInputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from fastv_export.graphs.tape import Tape

BLOCK = 128
"""Tokens that are counted by one row of a product."""


def budget(tape: Tape, inputs: RankerInputs) -> ir.Value:
    """How many prunable tokens stay, i64 [1, 1]: the length, less the tokens that are not prunable."""
    fixed = _count(tape, tape.op("Not", [inputs["prunable"]]))
    return tape.op("Sub", [inputs["length"], fixed])


def evenly_spaced(tape: Tape, members: ir.Value, count: ir.Value) -> ir.Value:
    """Those `count` (i64 [1, 1]) of the members (bool [1, S]) that stand in the middle of equal stretches of them.

    Member i of N stays where round(i * count / N), halves upwards, is less than round((i + 1) * count / N).
    """
    total = _count(tape, members)
    # Whole numbers, since fp32 would round i * count of long prompts. Without members nothing may be divided by zero.
    twice = tape.op("Mul", [tape.op("Max", [total, tape.constant([1])]), tape.constant([2])])
    step = tape.op("Mul", [count, tape.constant([2])])
    start = tape.op("Add", [tape.op("Mul", [_members_before(tape, members), step]), total])
    before = tape.op("Div", [start, twice])
    after = tape.op("Div", [tape.op("Add", [start, step]), twice])
    return tape.op("And", [members, tape.op("Greater", [after, before])])


def middles(members: int, count: int) -> list[int]:
    """The same by place, for plain definitions: the middles of `count` equal stretches of so many members."""
    return [-(-(2 * j + 1) * members // (2 * count)) - 1 for j in range(count)]


def _count(tape: Tape, members: ir.Value) -> ir.Value:
    ones = tape.to_float(members)
    count = tape.op("ReduceSum", [ones, tape.constant([1])], {"keepdims": 1})
    return tape.to_int(count)


def _members_before(tape: Tape, members: ir.Value) -> ir.Value:
    """How many members stand before each token, i64 [1, S].

    TensorRT writes CumSum as a loop over tokens. Two products with triangles of ones count as well: within blocks, and
    over the blocks before. fp32 (and TF32) holds counts within a block exactly.
    """
    import numpy as np

    rows = tape.op("Shape", [members], {"start": 1, "end": 2})
    blocks = tape.op("Add", [tape.op("Div", [rows, tape.constant([BLOCK])]), tape.constant([1])])
    padding = tape.op("Sub", [tape.op("Mul", [blocks, tape.constant([BLOCK])]), rows])  # 1 to BLOCK, never nothing
    zeros = tape.op("ConstantOfShape", [tape.op("Concat", [tape.constant([1]), padding], {"axis": 0})])
    ones = tape.to_float(members)
    padded = tape.op("Reshape", [tape.op("Concat", [ones, zeros], {"axis": 1}), tape.constant([-1, BLOCK])])
    triangle = tape.constant(np.triu(np.ones((BLOCK, BLOCK), np.float32), 1))
    within = tape.op("MatMul", [padded, triangle])
    totals = tape.op("ReduceSum", [padded, tape.constant([1])], {"keepdims": 1})
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    index = tape.op("Range", [zero, tape.op("Squeeze", [blocks, tape.constant([0])]), one])
    earlier = tape.op(
        "Greater",
        [tape.op("Unsqueeze", [index, tape.constant([1])]), tape.op("Unsqueeze", [index, tape.constant([0])])],
    )
    earlier = tape.to_float(earlier)
    counts = tape.op("Add", [within, tape.op("MatMul", [earlier, totals])])
    flat = tape.op("Reshape", [counts, tape.constant([1, -1])])
    cut = tape.op("Slice", [flat, tape.constant([0]), rows, tape.constant([1])])
    return tape.to_int(cut)
