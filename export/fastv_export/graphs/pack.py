"""The `pack` graph: gathers visual tokens from the features of tiles, by an index that the runtime computes.

Any-resolution models cut away padding, shrink large grids bilinearly and end each row with a newline embedding
(LLaVA-NeXT, LLaVA-OneVision): all of that is a choice of rows, or a weighted sum of a few.
"""

from __future__ import annotations

import onnx_ir as ir

from fastv_export.checkpoint.weights import CheckpointTensor
from fastv_export.graphs.tape import Tape


def build_pack(inputs: dict[str, ir.Value], opset: int, newline: CheckpointTensor) -> ir.Model:
    """Token i is features[index[i]], or the sum over j of weight[i, j] * features[index[i, j]].

    inputs: `features` T[R, D], `index` i64[N, taps] and, for more than one tap, `weight` f32[N, taps].
    newline: T[D]; index R stands for it. Output: image_features T[N, D].
    """
    tape = Tape()
    features, index = inputs["features"], inputs["index"]
    embedding = ir.Value(name="newline", type=features.type, shape=ir.Shape(newline.shape), const_value=newline)
    row = tape.op("Unsqueeze", [embedding, tape.constant([0])])
    rows = tape.op("Concat", [features, row], {"axis": 0})
    if "weight" in inputs:
        gathered = tape.op("Gather", [rows, index], {"axis": 0})
        scale = tape.op("Unsqueeze", [tape.op("CastLike", [inputs["weight"], features]), tape.constant([2])])
        packed = tape.op("ReduceSum", [tape.op("Mul", [gathered, scale]), tape.constant([1])], {"keepdims": 0})
    else:
        packed = tape.op("Gather", [rows, tape.op("Squeeze", [index, tape.constant([1])])], {"axis": 0})
    graph = ir.Graph(
        list(inputs.values()),
        [packed],
        nodes=tape.nodes,
        initializers=[*tape.initializers, embedding],
        opset_imports={"": opset},
        name="pack",
    )
    return ir.Model(graph, ir_version=11)
