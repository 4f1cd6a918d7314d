"""For TensorRT 10.3: a ScatterND says nothing of a reduction, as its parser refuses the attribute whatever it says
(onnx-tensorrt, docs/operators.md)."""

from __future__ import annotations

import onnx_ir as ir


def drop_scatter_reduction(model: ir.Model) -> int:
    """Remove `reduction` where it is the default; returns how many there were. ValueError for a real one."""
    found = [node for node in model.graph if node.op_type == "ScatterND" and "reduction" in node.attributes]
    for node in found:
        if node.attributes["reduction"].as_string() != "none":
            raise ValueError(f"{node.name}: TensorRT 10.3 has no ScatterND that reduces")
        del node.attributes["reduction"]
    return len(found)
