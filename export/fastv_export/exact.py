"""The same graph without rounded activations: what verification compares, since that rounding is the kernels'."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, helper


def with_exact_products(model: ModelProto) -> None:
    """In place, back to what `lower_to_dynamic_int8` started from: MatMul with a dequantised weight.

    Nothing bounds what eight bits in one range do to a model's outputs; what the graph is and which weights it has
    can be compared exactly.
    """
    activations = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DynamicQuantizeLinear"
    }
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            rows, weight, _, scales, _ = node.input
            name = f"{node.output[0]}.weight"
            nodes.append(helper.make_node("DequantizeLinear", [weight, scales], [name], axis=1))
            nodes.append(helper.make_node("MatMul", [activations[rows], name], list(node.output)))
        elif node.op_type != "DynamicQuantizeLinear":
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
