"""Declare an older opset, so that older runtimes load the graph. Only where every node fits the older operator."""

from __future__ import annotations

import onnx
import onnx_ir as ir


def declare_opset(model: ir.Model, version: int) -> None:
    """Set the default domain's opset to `version`, in place.

    Releases of ONNX re-register operators to admit new element types, attributes and inputs. A node that needs what
    came later (the operator itself, one of its attributes or inputs) is named in a ValueError. Meant for neighbouring
    opsets, between which no operator changed its meaning.
    """
    for node in model.graph:
        if node.domain == "":
            _check_fits(node, version)
    model.graph.opset_imports[""] = version


def _check_fits(node: ir.Node, version: int) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        raise ValueError(f"opset {version} has no {node.op_type}") from None
    newer = [name for name in node.attributes if name not in schema.attributes]
    if newer or len(node.inputs) > schema.max_input:
        what = newer or f"{len(node.inputs)} inputs"
        raise ValueError(f"{node.op_type} of opset {version} does not take {what}")
