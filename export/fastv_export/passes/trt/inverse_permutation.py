"""For TensorRT: the sort that inverts a permutation becomes a scatter, as TensorRT's TopK stops at 3840 values."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import ints
from fastv_export.passes.common.take_over import take_over


def lower_argsort(model: ir.Model, permutation: str = "window_index") -> int:
    """Rewrite in place every argsort of the graph's input `permutation`, i64[N]; returns how many there were.

    Where a permutation holds i is where its argsort points at i: scattering 0, 1, .. N-1 to its places is the same.
    """
    graph = model.graph
    sorts = [
        node
        for node in graph
        if node.op_type == "TopK"
        and node.inputs[0] is not None
        and node.inputs[0].is_graph_input()
        and node.inputs[0].name == permutation
    ]
    for sort in sorts:
        if sort.outputs[0].uses() or ("largest" in sort.attributes and sort.attributes["largest"].as_int()):
            raise ValueError(f"{sort.name}: only an argsort of {permutation}, smallest first, is lowered")
        index = sort.inputs[0]
        assert index is not None
        tape = Tape()
        count = tape.op("Squeeze", [tape.op("Shape", [index]), ints(tape, [0])])
        zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
        inverse = tape.op("ScatterElements", [index, index, tape.op("Range", [zero, count, one])], {"axis": 0})
        graph.insert_before(sort, tape.nodes)
        take_over(sort.outputs[1], inverse)
        graph.remove(sort, safe=True)
    common.RemoveUnusedNodesPass()(model)
    return len(sorts)
