"""Clean up a freshly traced graph: constants folded, weights laid out for MatMul, tracing remarks removed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
import onnxscript.rewriter
from onnxscript.rewriter.rules.common import add_0_rule

from fastv_export.checkpoint.weights import CheckpointTensor


def tidy(model: ir.Model) -> None:
    """Simplify in place, without reading a deferred weight."""
    fold_weight_transposes(model)
    with hidden_weights(model.graph):
        onnxscript.optimizer.optimize_ir(model)
        # What stands in the place of a layer's other half adds nothing.
        onnxscript.rewriter.rewrite(model, [add_0_rule])
    common.ClearMetadataAndDocStringPass()(model)


@contextmanager
def hidden_weights(graph: ir.Graph) -> Iterator[None]:
    """Within this context deferred weights have no values: the optimizer would read them to fold and compare them."""
    deferred = [
        (value, value.const_value)
        for value in graph.initializers.values()
        if isinstance(value.const_value, CheckpointTensor)
    ]
    for value, _ in deferred:
        value.const_value = None
    logger = logging.getLogger("onnx_ir.passes")  # warns of every initializer without values
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for value, tensor in deferred:
            value.const_value = tensor


def fold_weight_transposes(model: ir.Model) -> None:
    """Replace Transpose(weight) by a weight that is transposed as it is written."""
    graph = model.graph
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or not isinstance(weight.const_value, CheckpointTensor):
            continue
        if list(node.attributes["perm"].as_ints()) != [1, 0]:
            continue
        name = f"{weight.name}.T"
        if name not in graph.initializers:
            tensor = weight.const_value.transpose(name)
            graph.register_initializer(
                ir.Value(name=name, type=weight.type, shape=ir.Shape(tensor.shape), const_value=tensor)
            )
        node.outputs[0].replace_all_uses_with(graph.initializers[name])
        graph.remove(node, safe=True)
    common.RemoveUnusedNodesPass()(model)
