"""Declare an older opset, so that older runtimes load the graph. Only where every node fits the older operator."""

from __future__ import annotations

import onnx
import onnx_ir as ir

CHANGED = {"GroupNormalization": 21, "AveragePool": 22, "MaxPool": 22}
"""Opsets from which on an operator computes something else from the same inputs and attributes, above opset 20.

What else was registered anew from 21 to 24 admits more types, attributes or inputs (onnx, docs/Changelog.md).
"""


def declare_opset(model: ir.Model, version: int) -> None:
    """Set the default domain's opset to `version`, at least 20, in place, and the file format to that opset's own.

    Releases of ONNX re-register operators to admit new element types, attributes and inputs. A node that needs what
    came later (the operator itself, one of its attributes, inputs or their types), or whose operator meant something
    else then, is named in a ValueError.
    """
    newer = model.graph.opset_imports[""]
    for node in model.graph.all_nodes():
        if node.domain == "":
            _check_fits(node, version, newer)
    model.graph.opset_imports[""] = version
    oldest = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
    model.ir_version = min(model.ir_version, oldest)


def _check_fits(node: ir.Node, version: int, newer: int) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        raise ValueError(f"opset {version} has no {node.op_type}") from None
    if version < CHANGED.get(node.op_type, 0) <= newer:
        raise ValueError(f"{node.op_type} of opset {version} is another than that of opset {newer}")
    extra = [name for name in node.attributes if name not in schema.attributes]
    if extra or len(node.inputs) > schema.max_input:
        what = extra or f"{len(node.inputs)} inputs"
        raise ValueError(f"{node.op_type} of opset {version} does not take {what}")
    for index, value in enumerate(node.inputs):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]  # the last may be variadic
        if value is not None and value.dtype is not None and f"tensor({value.dtype.name.lower()})" not in formal.types:
            raise ValueError(f"{node.op_type} of opset {version} does not take {value.dtype} as its {formal.name}")
