"""Canonical -> `openvino` dialect: caches grow. A TensorScatter into a fixed capacity becomes a concatenation.

OpenVINO makes a state of such a cache, and its attention kernel appends to it in place, where nothing else reads it. So
what scores are computed from is a cache of its own, of the same rows.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import fixed_size, ints
from fastv_runtime.backends.openvino.states import again

AXIS = 2
"""Keys of a cache [1, Hkv, C, Dh]."""
BEFORE, AFTER = "keys", "keys_and_rows"
"""Symbols of that axis, before and after a run."""


def lower_to_growing_cache(model: ir.Model) -> int:
    """Rewrite in place every TensorScatter; returns how many there were.

    The input `write_index` goes: a cache has as many keys as were run before. Attention reads caches as long as they
    are, and the part of its mask that is of these. Whatever else reads one (scores) gets a copy, padded to the capacity
    that it had, so that its outputs keep their shapes; such a copy is an input and an output more
    (`fastv_runtime.backends.openvino.states`).
    """
    graph = model.graph
    scatters = [node for node in graph if node.op_type == "TensorScatter"]
    if not scatters:
        return 0
    (write_index,) = {scatter.inputs[2] for scatter in scatters}
    assert write_index is not None
    tape = Tape()
    first = scatters[0].inputs[0]
    assert first is not None
    length = tape.op("Shape", [first], {"start": AXIS, "end": AXIS + 1})
    total = tape.op("Add", [length, tape.op("Shape", [graph.inputs[0]], {"start": 1, "end": 2})])
    graph.insert_before(next(iter(graph)), tape.nodes)
    write_index.replace_all_uses_with(length)
    graph.inputs.remove(write_index)
    masks: dict[ir.Value, ir.Value] = {}
    for scatter in scatters:
        _grow(graph, scatter, total, masks)
    common.RemoveUnusedNodesPass()(model)
    return len(scatters)


def _grow(graph: ir.Graph, scatter: ir.Node, total: ir.Value, masks: dict[ir.Value, ir.Value]) -> None:
    past, new, _ = scatter.inputs
    assert past is not None and new is not None
    fixed = scatter.outputs[0]
    attentions = [node for node, _ in fixed.uses() if node.op_type == "Attention"]
    others = [(node, index) for node, index in fixed.uses() if node.op_type != "Attention"]
    if others:
        _copy(graph, scatter, total, others)
    tape = Tape()
    present = tape.op("Concat", [past, new], {"axis": AXIS})
    graph.insert_before(scatter, tape.nodes)
    for attention in attentions:
        for index, value in enumerate(attention.inputs):
            if value is fixed:
                attention.replace_input_with(index, present)
        mask = attention.inputs[3]
        assert mask is not None
        if mask in masks.values():
            continue
        if mask not in masks:  # layers share it
            tape = Tape()
            masks[mask] = tape.op("Slice", [mask, ints(tape, [0]), total, ints(tape, [3])])
            graph.insert_before(attention, tape.nodes)
        attention.replace_input_with(3, masks[mask])
    _take_name(graph, fixed, present)
    graph.remove(scatter)
    for value, symbol in ((past, BEFORE), (present, AFTER)):
        value.shape = _grown(fixed, symbol)


def _copy(graph: ir.Graph, scatter: ir.Node, total: ir.Value, users: list[tuple[ir.Node, int]]) -> None:
    """A cache of the same rows for whoever is no attention."""
    past, new, _ = scatter.inputs
    assert past is not None and new is not None
    fixed = scatter.outputs[0]
    copy = ir.Value(name=again(str(past.name)), type=past.type, shape=_grown(fixed, BEFORE))
    tape = Tape()
    grown = tape.op("Concat", [copy, new], {"axis": AXIS})
    missing = tape.op("Sub", [ints(tape, [fixed_size(fixed, AXIS)]), total])
    after = tape.op("Concat", [ints(tape, [0] * (4 + AXIS)), missing, ints(tape, [0])], {"axis": 0})
    whole = tape.op("Pad", [grown, after])
    whole.type, whole.shape = fixed.type, fixed.shape
    graph.insert_before(scatter, tape.nodes)
    for node, index in users:
        node.replace_input_with(index, whole)
    graph.inputs.append(copy)
    graph.outputs.append(grown)
    grown.name, grown.type, grown.shape = again(str(fixed.name)), fixed.type, _grown(fixed, AFTER)


def _grown(cache: ir.Value, symbol: str) -> ir.Shape:
    assert cache.shape is not None
    return ir.Shape([*cache.shape[:AXIS], symbol, *cache.shape[AXIS + 1 :]])


def _take_name(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """As an output of the graph."""
    index = list(graph.outputs).index(old)
    name, old.name = old.name, None
    new.name, new.type = name, old.type
    graph.outputs[index] = new
