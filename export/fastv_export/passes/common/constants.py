"""Constants that passes add to a graph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

NUMPY = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16}


def register(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """A tensor as an initializer of its own name."""
    value = ir.Value(
        name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def scalar(graph: ir.Graph, name: str, value: float, dtype: ir.DataType) -> ir.Value:
    """A number of one of the types that graphs compute in, as an initializer."""
    return register(graph, ir.Tensor(np.array(value, NUMPY[dtype]), name=name))
