"""Canonical -> `trt-legacy` dialect: a TensorScatter becomes a choice, row by row of the cache, of old or new."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import fixed_size, ints
from fastv_export.passes.common.take_over import take_over

AXIS = 2
"""Rows of a cache [1, Hkv, C, Dh]."""


def lower_to_where(model: ir.Model) -> int:
    """Rewrite in place every TensorScatter into a cache of fixed capacity; returns how many there were.

    TensorRT 10.3 has ScatterND and ScatterElements (onnx-tensorrt, docs/operators.md), but both want an index per row
    and head or per element, and both copy the cache. Where(written, Gather(new), old) costs no more, takes only a
    vector of positions, and its rows depend on nothing but themselves: computed in place, even twice, it is the same.
    """
    graph = model.graph
    scatters = [node for node in graph if node.op_type == "TensorScatter"]
    shared: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]] = {}
    for scatter in scatters:
        past, new, write_index = _inputs(scatter)
        capacity = fixed_size(past, AXIS)
        tape = Tape()
        if (write_index, capacity) not in shared:  # all layers of a graph write the same rows
            shared[write_index, capacity] = _positions(tape, new, write_index, capacity)
        source, written = shared[write_index, capacity]
        rows = tape.op("Gather", [new, source], {"axis": AXIS})
        present = tape.op("Where", [written, rows, past])
        graph.insert_before(scatter, tape.nodes)
        take_over(scatter.outputs[0], present)
        graph.remove(scatter, safe=True)
    common.RemoveUnusedNodesPass()(model)
    return len(scatters)


def _inputs(scatter: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(past, new, write_index); ValueError for a TensorScatter that wraps around or is along another axis."""
    mode = scatter.attributes["mode"].as_string() if "mode" in scatter.attributes else "linear"
    axis = scatter.attributes["axis"].as_int() if "axis" in scatter.attributes else -2
    if mode != "linear" or axis not in (AXIS, AXIS - 4) or len(scatter.inputs) != 3:
        raise ValueError(f"{scatter.name}: only linear writes along axis {AXIS} are lowered")
    past, new, write_index = scatter.inputs
    assert past is not None and new is not None and write_index is not None
    return past, new, write_index


def _positions(tape: Tape, new: ir.Value, write_index: ir.Value, capacity: int) -> tuple[ir.Value, ir.Value]:
    """Of every row of the cache: (i64[C] the new row for it, bool[C, 1] whether there is one)."""
    zero = ints(tape, [0])
    count = tape.op("Shape", [new], {"start": AXIS, "end": AXIS + 1})
    every = tape.op("Constant", [], {"value": ir.tensor(np.arange(capacity, dtype=np.int64))})
    row = tape.op("Sub", [every, write_index])
    written = tape.op("And", [tape.op("GreaterOrEqual", [row, zero]), tape.op("Less", [row, count])])
    # Rows that are not written still gather something. Max and Min, since TensorRT's Clip takes no integers.
    last = tape.op("Sub", [count, ints(tape, [1])])
    source = tape.op("Min", [tape.op("Max", [row, zero]), last])
    return source, tape.op("Unsqueeze", [written, ints(tape, [1])])
