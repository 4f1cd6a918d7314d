"""Clean up a freshly traced graph: constants folded, weights laid out for MatMul, tracing remarks removed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer


def tidy(model: ir.Model) -> None:
    """Simplify in place, without reading a deferred weight."""
    fold_weight_transposes(model)
    onnxscript.optimizer.optimize_ir(model, should_fold=_may_fold)
    common.ClearMetadataAndDocStringPass()(model)


def _may_fold(node: ir.Node) -> bool | None:
    """Refuse to fold what would read a checkpoint tensor; leave the rest to the optimizer's own judgement."""
    deferred = any(value is not None and isinstance(value.const_value, ir.LazyTensor) for value in node.inputs)
    return False if deferred else None


def fold_weight_transposes(model: ir.Model) -> None:
    """Replace Transpose(weight) by a weight that is transposed as it is written."""
    graph = model.graph
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or not isinstance(weight.const_value, ir.LazyTensor) or weight.name is None:
            continue
        if list(node.attributes["perm"].as_ints()) != [1, 0]:
            continue
        name = f"{weight.name}.T"
        if name not in graph.initializers:
            tensor = _transposed(weight.const_value, name)
            graph.register_initializer(
                ir.Value(name=name, type=weight.type, shape=ir.Shape(tensor.shape), const_value=tensor)
            )
        node.outputs[0].replace_all_uses_with(graph.initializers[name])
        graph.remove(node, safe=True)
    common.RemoveUnusedNodesPass()(model)


def _transposed(tensor: ir.LazyTensor, name: str) -> ir.LazyTensor:
    def read() -> ir.Tensor:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().T), name=name)

    return ir.LazyTensor(read, tensor.dtype, ir.Shape(list(tensor.shape)[::-1]), name=name)
