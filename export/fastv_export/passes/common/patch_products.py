"""A convolution whose kernel is as large as what it is given is a product: one window, nothing slides.

Qwen's towers embed patches so, one convolution of 3 x 2 x 14 x 14 values a patch. On CPUs the kernels of convolutions
take some ten times as long for it, and 35 in bf16 (by hand: ONNX Runtime 1.32 and OpenVINO 2026.4, 2,304 patches,
1,280 outputs).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from fastv_export.passes.common.heads import ints
from fastv_export.passes.common.take_over import take_over


def lower_patch_convolutions(model: ir.Model) -> int:
    """Rewrite in place every Conv of one window to a Gemm; returns how many there were."""
    graph = model.graph
    found = [node for node in graph if node.op_type == "Conv" and _one_window(node)]
    for node in found:
        values, weight, *bias = node.inputs
        assert values is not None and weight is not None
        tape = Tape()
        rows = tape.op("Reshape", [values, ints(tape, [0, -1])])
        outputs = tape.op("Reshape", [weight, ints(tape, [0, -1])])
        product = tape.op("Gemm", [rows, outputs, *bias], {"transB": 1})
        windows = tape.op("Reshape", [product, ints(tape, [0, 0] + [1] * len(_kernel(weight)))])
        take_over(node.outputs[0], windows)
        graph.insert_before(node, tape.nodes)
        graph.remove(node, safe=True)
    return len(found)


def _one_window(node: ir.Node) -> bool:
    """Whether the kernel covers its input, unpadded and undilated."""
    values, weight = node.inputs[0], node.inputs[1]
    if values is None or weight is None or values.shape is None or weight.shape is None:
        return False
    plain = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    unpadded = not any(node.attributes.get_ints("pads", ()))
    dense = all(step == 1 for step in node.attributes.get_ints("dilations", ()))
    together = node.attributes.get_int("group", 1) == 1
    return plain and unpadded and dense and together and list(values.shape)[2:] == _kernel(weight)


def _kernel(weight: ir.Value) -> list[int | ir.SymbolicDim]:
    """Sizes that a weight [outputs, inputs, ...] spans."""
    assert weight.shape is not None
    return list(weight.shape)[2:]
