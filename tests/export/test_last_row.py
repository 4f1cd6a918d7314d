"""The last layer of a prefill computes its projections for the row whose logits are read, and for no other.

That logits and caches stay what transformers computes is for the tests of families and of parity to say.
"""

from __future__ import annotations

from pathlib import Path

import onnx


def test_nothing_follows_the_last_attention_but_one_row(tiny_bundle: Path) -> None:
    nodes = onnx.load(tiny_bundle / "onnx" / "suffix.onnx", load_external_data=False).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    layers = {
        node.input[1]: made_by.get(node.input[0])
        for node in nodes
        if node.op_type == "MatMul" and ".o_proj." in node.input[1]
    }
    *earlier, last = layers.values()
    assert last == "Slice" and "Slice" not in earlier
    # And none before the head: its rows are one already.
    assert sum(node.op_type == "Slice" and node.output[0] in _feeds(nodes) for node in nodes) == 2


def _feeds(nodes: object) -> set[str]:
    """What projections, and sums with what they make, read."""
    return {
        name
        for node in nodes
        if node.op_type in ("MatMul", "Add", "SkipSimplifiedLayerNormalization")
        for name in node.input
    }
