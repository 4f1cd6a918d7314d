"""Canonical -> `ort` dialect: products with int8 weights compute in int8, each row of activations in its own range.

A pretrained model has a few tokens whose states are thousands of times larger than all others: in one range for all
rows (DynamicQuantizeLinear) the others fall to zero. ONNX Runtime's MatMulIntegerToFloat multiplies bytes with the
processor's dot-product instructions where it has them, and takes one scale for its rows; so rows are divided by their
largest size before they are rounded, and what comes out is multiplied by it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.tape import Tape

from fastv_export.passes.common.take_over import take_over

DOMAIN = "com.microsoft"
STEP = np.array(1 / 127, np.float32)
"""Of a row divided by its largest size: symmetric, so that zero is exact."""
ZERO = np.array(128, np.uint8)
"""What zero is as an unsigned byte, which the kernels want."""


def lower_to_dynamic_int8(model: ir.Model) -> int:
    """Rewrite in place every fp32 MatMul whose weight is int8 with a scale per output; returns how many there were."""
    graph = model.graph
    products = [node for node in graph if node.op_type == "MatMul" and _dequantized(node.inputs[1])]
    if products:
        lowering = _Lowering(graph)
        for node in products:
            lowering.lower(node)
        graph.opset_imports[DOMAIN] = 1
        common.RemoveUnusedNodesPass()(model)
    return len(products)


class _Lowering:
    """What the products of one graph share."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        """By rows: their bytes, and what products of those are multiplied by."""
        self._owed: dict[ir.Value, ir.Value] = {}
        """By rows: what they are still to be multiplied by, row by row."""
        self._axis = _constant(graph, "axis", np.array([-1]))
        self._step, self._zero = _constant(graph, "step", STEP), _constant(graph, "zero", ZERO)

    def lower(self, node: ir.Node) -> None:
        rows, weight = node.inputs
        assert rows is not None and weight is not None
        dequantize = weight.producer()
        assert dequantize is not None
        values, scales = dequantize.inputs
        tape = Tape()
        if rows not in self._rounded:  # queries, keys and values share theirs
            self._rounded[rows] = self._round(tape, rows)
        integers, sizes = self._rounded[rows]
        product = tape.op("MatMulIntegerToFloat", [integers, values, self._step, scales, self._zero], domain=DOMAIN)
        later = _multiplied(node.outputs[0])
        if later is None or later in self._owed:
            product = tape.op("Mul", [product, sizes])
        else:
            # `up`: what its rows lack `down`'s have too, and those are rounded each by its own size. So they are
            # multiplied behind `down`, where they are a fifth as wide.
            self._owed[later] = sizes
        self._graph.insert_before(node, tape.nodes)
        take_over(node.outputs[0], product)
        self._graph.remove(node, safe=True)

    def _round(self, tape: Tape, rows: ir.Value) -> tuple[ir.Value, ir.Value]:
        """uint8 as wide as `rows`, and float32 [..., 1].

        A row of zeros becomes NaN, then bytes of any value, and then zeros, since its size is zero.
        """
        sizes = tape.op("ReduceMax", [tape.op("Abs", [rows]), self._axis])
        integers = tape.op("QuantizeLinear", [tape.op("Div", [rows, sizes]), self._step, self._zero])
        if rows in self._owed:
            sizes = tape.op("Mul", [sizes, self._owed[rows]])
        return integers, sizes


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(array, name=f"int8.{name}")
    value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def _multiplied(product: ir.Value) -> ir.Value | None:
    """The elementwise product that this one is a factor of and nothing else, if only products in int8 are given it."""
    users = [use.node for use in product.uses()]
    if len(users) != 1 or users[0].op_type != "Mul" or product.is_graph_output():
        return None
    rows = users[0].outputs[0]
    readers = [use.node for use in rows.uses()]
    in_int8 = all(node.op_type == "MatMul" and _dequantized(node.inputs[1]) for node in readers)
    return rows if readers and in_int8 and not rows.is_graph_output() else None


def _dequantized(weight: ir.Value | None) -> bool:
    node = None if weight is None else weight.producer()
    if node is None or node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return False
    scales = node.inputs[1]
    return weight is not None and scales is not None and scales.dtype == ir.DataType.FLOAT
