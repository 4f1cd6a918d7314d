"""Layout of attention heads: [1, H, S, Dh], as layers have it, and [1, S, H * Dh], as ONNX Runtime's operators do."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

SWAP = [0, 2, 1, 3]


def rows_first(tape: Tape, value: ir.Value, width: int) -> ir.Value:
    """[1, H, S, Dh] -> [1, S, width], width = H * Dh."""
    transposed = tape.op("Transpose", [value], {"perm": SWAP})
    return tape.op("Reshape", [transposed, ints(tape, [0, 0, width])])


def heads_first(tape: Tape, value: ir.Value, heads: int, width: int) -> ir.Value:
    """[1, S, heads * width] -> [1, heads, S, width]."""
    split = tape.op("Reshape", [value, ints(tape, [0, 0, heads, width])])
    return tape.op("Transpose", [split], {"perm": SWAP})


def ints(tape: Tape, values: list[int]) -> ir.Value:
    """A constant i64 vector."""
    return tape.op("Constant", [], {"value_ints": values})


def number(value: ir.Value | None) -> int | None:
    """A constant of one element; None if it is none."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.size != 1 else int(tensor.numpy().reshape(-1)[0])


def fixed_size(value: ir.Value, axis: int) -> int:
    """Size of an axis that must not be dynamic."""
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise ValueError(f"axis {axis} of {value.name} has no fixed size, which the lowered attention needs")
    return size


def fold_transpose_pairs(graph: ir.Graph) -> None:
    """Drop pairs of head transposes: the layers' own, undone by a lowering."""
    for node in list(graph):
        inner = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if inner is None or inner.op_type != "Transpose":
            continue
        if all(list(each.attributes["perm"].as_ints()) == SWAP for each in (node, inner)):
            assert inner.inputs[0] is not None
            node.outputs[0].replace_all_uses_with(inner.inputs[0])
            graph.remove(node, safe=True)
