"""The same graph with logits of several rows: what many tokens need that are given to it at once."""

from __future__ import annotations

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

NAME = "last_rows"
"""Of the constant that says how many."""


def with_last_rows(model: ModelProto, rows: int) -> None:
    """In place: a graph with a head, which goes on with its last row alone, goes on with the last `rows`.

    ValueError for a graph that does not take its last row as the others do (`keep_last_row`).
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer if not tensor.external_data}
    constants |= {
        node.output[0]: tensor
        for node in model.graph.node
        if node.op_type == "Constant" and (tensor := _tensor(node)) is not None
    }
    takers = [node for node in model.graph.node if _takes_last_row(node, constants)]
    if not takers:
        raise ValueError("no node of this graph takes its last row")
    for node in takers:
        node.input[1] = NAME
    model.graph.node.insert(0, helper.make_node("Constant", [], [NAME], value_ints=[-rows]))


def _takes_last_row(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Slice(data, -1, end, axis 1)."""
    if node.op_type != "Slice" or not constants.keys() >= {node.input[1], node.input[3]}:
        return False
    return [numpy_helper.to_array(constants[node.input[index]]).tolist() for index in (1, 3)] == [[-1], [1]]


def _tensor(node: NodeProto) -> TensorProto | None:
    """The value of a Constant of integers."""
    (attribute,) = node.attribute
    if attribute.type == AttributeProto.TENSOR:
        tensor: TensorProto = attribute.t
        return tensor
    if attribute.type == AttributeProto.INTS:
        return helper.make_tensor("", TensorProto.INT64, [len(attribute.ints)], attribute.ints)
    return None
