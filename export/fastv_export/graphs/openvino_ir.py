"""From a saved ONNX graph to OpenVINO's IR: caches become states, and attention what its fused kernels look for.

OpenVINO reads weights by mapping the file, and writes them one after another: none is held.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from fastv_export.graphs.save import save_graph
from fastv_export.staging import named
from fastv_runtime.backends.openvino.graphs import load_core
from fastv_runtime.backends.openvino.states import BEAM, ROUNDING_GROUP, again, is_past, past_of, present_of

FOLDER = "openvino"
GROUP = 128
"""Inputs whose activations share a range, where weights have one scale an output."""
HEADS, KEYS = 1, 2
"""Axes of a cache [1, Hkv, keys, Dh]."""


def save_ir(model: ir.Model, folder: Path, name: str, written: Callable[[int], None]) -> str:
    """Write a graph of a bundle, as `save_onnx` does. Its weights are on disk twice while it is made."""
    (folder / FOLDER).mkdir(exist_ok=True)
    through = folder / FOLDER / f"{name}.onnx"
    save_graph(model, through, written)
    file = f"{FOLDER}/{name}.xml"
    with named(folder / file):
        write_ir(through, folder / file, activation_group(model))
    for each in (through, through.with_name(f"{through.name}.data")):
        each.unlink(missing_ok=True)
    return file


def activation_group(model: ir.Model) -> int | None:
    """Inputs of a product that share a range where kernels round activations to eight bits; None: nothing is rounded.

    As many as share a scale of weights: OpenVINO's default of 32 takes longer, and more than a block of four-bit
    weights leaves activations whole, which takes longer still.
    """
    dequantized = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    blocks = [node.attributes["block_size"].as_int() for node in dequantized if "block_size" in node.attributes]
    return min([GROUP, *blocks]) if dequantized else None


def write_ir(source: Path, target: Path, group: int | None = None) -> None:
    """Write the graph at `source`, of the dialect `openvino`, as `target` (.xml) and its weights beside it (.bin).

    group: as `activation_group` says; kernels find it in the file.
    """
    core = load_core()  # before anything else imports OpenVINO
    from openvino import save_model

    model = core.read_model(source)
    masks: dict[Any, Any] = {}
    for attention in [each for each in model.get_ordered_ops() if each.get_type_name() == "ScaledDotProductAttention"]:
        _drop_guard(attention)
        if _share_heads(attention):
            _share_mask(attention, masks)
    _make_stateful(model)
    model.validate_nodes_and_infer_types()
    if group is not None:
        model.set_rt_info(str(group), ["runtime_options", ROUNDING_GROUP])
    save_model(model, target, compress_to_fp16=False)


def _drop_guard(attention: Any) -> None:
    """ONNX says that a row that sees nothing becomes 0 and not NaN, and none here sees nothing: OpenVINO's reader puts
    a Select(IsNaN) behind each attention, which none of its kernels swallows."""
    for user in attention.output(0).get_target_inputs():
        node = user.get_node()
        if node.get_type_name() == "Select":
            node.output(0).replace(attention.output(0))
            return


def _share_mask(attention: Any, masks: dict[Any, Any]) -> None:
    """Layers have one mask. OpenVINO's reader lengthens it for each, by the length of keys that it repeats for it."""
    mask = attention.input_value(3)
    while mask.get_node().get_type_name() != "Select":
        mask = mask.get_node().input_value(0)
    seen = mask.get_node().input_value(0)
    key = (seen.get_node().get_friendly_name(), seen.get_index())
    attention.input(3).replace_source_output(masks.setdefault(key, mask))


def _share_heads(attention: Any) -> bool:
    """Keys and values of a cache with fewer heads than queries: repeated by Unsqueeze, Broadcast and Reshape, right
    behind what makes the cache. False for a tower's attention, which has none."""
    from openvino import opset13 as ops

    heads = attention.input_value(0).get_partial_shape()[HEADS].get_length()
    for index in (1, 2):
        cache = _cache(attention.input_value(index))
        if cache is None:
            return False
        shape = cache.get_partial_shape()
        shared = heads // shape[HEADS].get_length()
        if shared == 1:
            attention.input(index).replace_source_output(cache)
            continue
        width = shape[3].get_length()
        apart = ops.unsqueeze(cache, ops.constant(np.array(2, np.int64)))
        repeated = ops.broadcast(
            apart, ops.constant(np.array([1, 1, shared, 1, 1], np.int64)), broadcast_spec="BIDIRECTIONAL"
        )
        whole = ops.reshape(repeated, ops.constant(np.array([0, heads, -1, width], np.int64)), special_zero=True)
        attention.input(index).replace_source_output(whole.output(0))
    return True


def _cache(value: Any) -> Any:
    """The concatenation that keys or values of an attention come from; None of those of a tower."""
    while value.get_node().get_type_name() != "Concat":
        node = value.get_node()
        if node.get_input_size() == 0 or node.get_type_name() in ("MatMul", "Transpose"):
            return None
        value = node.input_value(0)
    return value


def _make_stateful(model: Any) -> None:
    """Each past and present become a state, empty at first; `beam_idx` i32[1] says whose caches go on."""
    import openvino
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    pasts = {each.any_name: each for each in model.inputs if is_past(each.any_name)}
    if not pasts:
        return
    beam = ops.parameter([1], openvino.Type.i32, name=BEAM)
    beam.output(0).set_names({BEAM})
    model.add_parameters([beam])
    empty = {}
    for name, past in pasts.items():
        shape = [axis.get_length() if axis.is_static else 0 for axis in past.partial_shape]
        zero = ops.constant(np.zeros([], np.float32), dtype=past.element_type)
        empty[name] = ops.broadcast(zero, ops.constant(np.array(shape, np.int64)))
        users = list(past.get_target_inputs())
        chosen = ops.gather(past, beam, ops.constant(np.array(0, np.int32)))
        for user in users:
            user.replace_source_output(chosen.output(0))
    apply_make_stateful_transformation(model, {name: present_of(name) for name in pasts})
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ReadValue":
            past, copied = past_of(node.get_attributes()["variable_id"])
            node.set_arguments([empty[again(past) if copied else past].output(0)])
