"""Canonical -> `ort` dialect: x * cos + rotate_half(x) * sin becomes one RotaryEmbedding on rows of all heads.

Eight operators over all queries, and as many over all keys, are a twentieth of a prefill, and more of a decoded token.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import fixed_size, fold_transpose_pairs, heads_first, ints, number, rows_first
from fastv_export.passes.common.take_over import take_over

DOMAIN = "com.microsoft"


def lower_to_rotary_embedding(model: ir.Model) -> int:
    """Rewrite in place every rotation of heads [1, H, S, Dh]; returns how many there were.

    The operator takes one half of cosines and sines [1, S, Dh], which transformers makes of two equal ones.
    """
    graph = model.graph
    rotations = [found for node in graph if (found := _rotation(node)) is not None]
    halves: dict[ir.Value, ir.Value] = {}
    start: ir.Value | None = None
    for rotation in rotations:
        tape = Tape()
        heads, width = fixed_size(rotation.heads, 1), fixed_size(rotation.heads, 3)
        start = start or ints(tape, [0])  # row i has cosines i
        for table in (rotation.cosines, rotation.sines):
            if table not in halves:
                halves[table] = _half(tape, table, width)
        turned = tape.op(
            "RotaryEmbedding",
            [
                rows_first(tape, rotation.heads, heads * width),
                start,
                halves[rotation.cosines],
                halves[rotation.sines],
            ],
            {"num_heads": heads},
            domain=DOMAIN,
        )
        result = heads_first(tape, turned, heads, width)
        graph.insert_before(rotation.last, tape.nodes)
        take_over(rotation.last.outputs[0], result)
    if rotations:
        graph.opset_imports[DOMAIN] = 1
        common.RemoveUnusedNodesPass()(model)
        fold_transpose_pairs(graph)
        common.RemoveUnusedNodesPass()(model)
    return len(rotations)


@dataclass(frozen=True)
class _Rotation:
    last: ir.Node
    heads: ir.Value
    """[1, H, S, Dh]."""
    cosines: ir.Value
    sines: ir.Value
    """[1, S, Dh]."""


def _rotation(node: ir.Node) -> _Rotation | None:
    """What `node` adds up, if that is a rotation as transformers writes it (`apply_rotary_pos_emb`)."""
    if node.op_type != "Add":
        return None
    straight, turned = (_producer(value, "Mul") for value in node.inputs)
    if straight is None or turned is None:
        return None
    heads, cosines = straight.inputs
    half, sines = turned.inputs
    cosine, sine = _producer(cosines, "Unsqueeze"), _producer(sines, "Unsqueeze")
    if heads is None or heads.shape is None or len(heads.shape) != 4:
        return None
    if cosine is None or sine is None or cosine.inputs[0] is None or sine.inputs[0] is None:
        return None
    if not _is_rotated_half(half, heads):
        return None
    return _Rotation(node, heads, cosine.inputs[0], sine.inputs[0])


def _is_rotated_half(value: ir.Value | None, heads: ir.Value) -> bool:
    joined = _producer(value, "Concat")
    if joined is None or len(joined.inputs) != 2:
        return False
    negated, first = _producer(joined.inputs[0], "Neg"), _producer(joined.inputs[1], "Slice")
    second = None if negated is None else _producer(negated.inputs[0], "Slice")
    if first is None or second is None or not first.inputs[0] is second.inputs[0] is heads:
        return False
    middle = fixed_size(heads, 3) // 2
    # Slice(data, starts, ends, axes, steps)
    return number(first.inputs[1]) == 0 and number(first.inputs[2]) == number(second.inputs[1]) == middle


def _half(tape: Tape, table: ir.Value, width: int) -> ir.Value:
    """[1, S, Dh] -> [S, Dh / 2]."""
    half = tape.op("Slice", [table, ints(tape, [0]), ints(tape, [width // 2]), ints(tape, [2])])
    return tape.op("Squeeze", [half, ints(tape, [0])])


def _producer(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None
