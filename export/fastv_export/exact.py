"""The same graph without rounded activations: what verification compares, since that rounding is the kernels'."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, helper

UNSET = 0
"""accuracy_level of MatMulNBits at which it computes in the type of its activations."""


def with_exact_products(model: ModelProto) -> None:
    """In place: products whose activations are rounded take them as they are.

    Nothing bounds what eight bits in one range do to a model's outputs; what the graph is and which weights it has
    can be compared exactly.
    """
    activations = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DynamicQuantizeLinear"
    }
    # Weights are stored as integers: what a QuantizeLinear makes are activations.
    integers = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    rounded = {
        node.output[0]: integers[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in integers
    }
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in integers or node.output[0] in rounded:
            continue
        node.input[:] = [rounded.get(name, name) for name in node.input]
        if node.op_type == "MatMulIntegerToFloat":
            rows, weight, _, scales, _ = node.input
            name = f"{node.output[0]}.weight"
            nodes.append(helper.make_node("DequantizeLinear", [weight, scales], [name], axis=1))
            nodes.append(helper.make_node("MatMul", [activations[rows], name], list(node.output)))
        elif node.op_type != "DynamicQuantizeLinear":
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = UNSET
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
