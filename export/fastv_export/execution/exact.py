"""The same graph without rounded activations: what verification compares, since that rounding is the kernels'."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

QUANTISE = ("QuantizeLinear", "TRT_FP4DynamicQuantize")
"""What makes few bits of activations; those of weights are stored."""
UNSET = 0
"""accuracy_level of MatMulNBits at which it computes in the type of its activations."""
ONE = "exact.one"
"""What rows of int8 products are divided by here, and their products multiplied by."""


def with_exact_products(model: ModelProto) -> None:
    """In place: products whose activations are rounded take them as they are.

    Nothing bounds what eight bits do to a model's outputs; what the graph is and which weights it has can be compared
    exactly.
    """
    makers = {node.output[0]: node for node in model.graph.node}
    integers = {name: node.input[0] for node in model.graph.node if node.op_type in QUANTISE for name in node.output}
    rounded = {
        node.output[0]: integers[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in integers
    }
    # Of rows, as `dynamic_int8` divides by them: not here, where a row of zeros would become NaN.
    sizes = {
        makers[integers[node.input[0]]].input[1] for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"
    }
    absolute = {makers[name].input[0] for name in sizes}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in integers.keys() | rounded.keys() | sizes | absolute:
            continue
        node.input[:] = [ONE if name in sizes else rounded.get(name, name) for name in node.input]
        if node.op_type == "MatMulIntegerToFloat":
            rows, weight, _, scales, _ = node.input
            name = f"{node.output[0]}.weight"
            nodes.append(helper.make_node("DequantizeLinear", [weight, scales], [name], axis=1))
            nodes.append(helper.make_node("MatMul", [integers[rows], name], list(node.output)))
            continue
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = UNSET
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if sizes:
        model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), ONE))
