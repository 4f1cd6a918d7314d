"""The select graph: the gather between prefix and suffix. No weights, so it is written as a graph, not traced."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from fastv_export.graphs.tape import Tape
from fastv_export.rankers import RANKERS
from fastv_runtime.config.cuts import ATTENTION_SIGNALS


def build_select(inputs: dict[str, ir.Value], opset: int, ranker: str, outputs: Sequence[str]) -> ir.Model:
    """`length` rows stay, in their order and with their positions; tokens that are not prunable always do.

    inputs: the graph's inputs by name, as the io_spec declares them. ranker: of `rankers.RANKERS`.
    outputs: their names. Ties go to the lower index, as ONNX's TopK defines it. Outputs: pruned_hidden,
    pruned_position_ids, keep, and kept rows of what later cuts and the deepstack ask for.
    """
    tape = Tape()
    position_ids, length = inputs["position_ids"], inputs["length"]
    rank = RANKERS[ranker].rank(tape, inputs | _of_rows(tape, inputs))
    ranked = tape.op("Where", [inputs["prunable"], rank, tape.constant(float("inf"))])
    _, chosen = tape.op_multi_out("TopK", [ranked, length], {"axis": 1, "largest": 1, "sorted": 1}, num_outputs=2)
    # TopK again, smallest first, sorts: TensorRT has no Sort. fp32 holds every index below 2^24 exactly.
    as_float = tape.to_float(chosen)
    ascending, _ = tape.op_multi_out("TopK", [as_float, length], {"axis": 1, "largest": 0, "sorted": 1}, num_outputs=2)
    keep = tape.to_int(ascending)
    kept_rows = tape.op("Squeeze", [keep, tape.constant([0])])
    pruned_hidden = tape.op("Gather", [inputs["hidden"], kept_rows], {"axis": 1})
    assert position_ids.shape is not None
    pruned_position_ids = tape.op("Gather", [position_ids, kept_rows], {"axis": len(position_ids.shape) - 1})
    carried = [
        tape.op("Gather", [inputs[name.removeprefix("pruned_")], kept_rows], {"axis": 1}) for name in outputs[3:]
    ]
    graph = ir.Graph(
        list(inputs.values()),
        [pruned_hidden, pruned_position_ids, keep, *carried],
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": opset},
        name="select",
    )
    return ir.Model(graph, ir_version=11)


def _of_rows(tape: Tape, inputs: dict[str, ir.Value]) -> dict[str, ir.Value]:
    """Signals of a whole cache [1, ..., C], those of the rows that are there alone: [1, ..., S]."""
    found: dict[str, ir.Value] = {}
    rows = tape.op("Shape", [inputs["hidden"]], {"start": 1, "end": 2})
    for name, signal in inputs.items():
        if name not in ATTENTION_SIGNALS or signal.shape is None or not isinstance(signal.shape[-1], int):
            continue
        axis = tape.constant([len(signal.shape) - 1])
        found[name] = tape.op("Slice", [signal, tape.constant([0]), rows, axis])
        found[name].type, found[name].shape = signal.type, ir.Shape([*signal.shape[:-1], None])
    return found
