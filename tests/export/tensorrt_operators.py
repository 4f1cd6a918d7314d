"""What the parser of TensorRT 10.3 takes: operators, element types and restrictions, and a check of a graph.

From docs/operators.md of onnx-tensorrt, as of its 10.1 GA release: each operator that a graph here may have is in the
lists of 10.1 and of 10.15 with the types below, so 10.3, between the two, has it as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

FLOATS = {"float", "float16", "bfloat16"}
NUMBERS = FLOATS | {"int32", "int64"}
ALL = NUMBERS | {"bool"}
# fmt: off
_BY_TYPES: list[tuple[set[str], list[str]]] = [
    (
        NUMBERS,
        [
            "Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg",
            "Range", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "ScatterElements", "ScatterND",
            "Sub", "TopK",
        ],
    ),
    (
        FLOATS,
        [
            "ArgMax", "BatchNormalization", "Clip", "Conv", "Cos", "Erf", "Exp", "Floor", "Gelu", "Gemm",
            "LayerNormalization",
            "MatMul", "Pow", "Reciprocal", "Sigmoid", "Sin", "Softmax", "Sqrt", "Tanh",
        ],
    ),
    (
        {"bool"},
        [
            "And", "Not", "Or",
        ],
    ),
    (
        ALL,
        [
            "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather",
            "GatherElements", "GatherND", "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile",
            "Transpose", "Trilu", "Unsqueeze", "Where",
        ],
    ),
]
# fmt: on
OPERATORS = {operator: types for types, operators in _BY_TYPES for operator in operators}
NEWEST_OPSET = 20

CONSTANT_INPUTS = {"Squeeze": 1, "Unsqueeze": 1, "Slice": 3} | dict.fromkeys(
    ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), 1
)
"""The input (axes, by its index) that must be an initializer or a Constant."""


def violations(model: onnx.ModelProto) -> Iterator[str]:
    """What the parser would refuse, one line each. Every value must have a type that can be inferred."""
    (opset,) = model.opset_import
    if opset.domain or opset.version > NEWEST_OPSET:
        yield f"opset {opset.domain} {opset.version}"
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    constants = {each.name for each in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    types = {each.name: each.data_type for each in graph.initializer} | {
        each.name: each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info, *graph.output)
    }
    for node in graph.node:
        if node.domain or node.op_type not in OPERATORS:
            yield f"operator {node.domain} {node.op_type}"
            continue
        for name in _data(node, opset.version):
            found = onnx.TensorProto.DataType.Name(types[name]).lower()
            if found not in OPERATORS[node.op_type]:
                yield f"{node.op_type} of {found}"
        axes = CONSTANT_INPUTS.get(node.op_type)
        if axes is not None and len(node.input) > axes and node.input[axes] not in constants:
            yield f"{node.op_type}: axes are not constant"
        yield from _restrictions(node)


def _data(node: onnx.NodeProto, opset: int) -> Iterator[str]:
    """Inputs whose element type is the operator's; indices and shapes have types of their own."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    variables = {each.type_param_str for each in schema.type_constraints} - {"Tind"}
    for index, name in enumerate(node.input):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]  # the last may be variadic
        if name and formal.type_str in variables:
            yield name


def _restrictions(node: onnx.NodeProto) -> Iterator[str]:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "ScatterND" and "reduction" in attributes:
        yield "ScatterND: reduction is not supported"
    if node.op_type == "TopK" and attributes.get("sorted", 1) != 1:
        yield "TopK: must be sorted"
    if node.op_type == "LayerNormalization" and len([name for name in node.output if name]) > 1:
        yield "LayerNormalization: has one output"
