"""The table of traced configurations: what it says of one that traces, of one that cannot, and that it checks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import trace_table
from configurations import as_config
from random_checkpoint import write_random_checkpoint

from tests.tiny import VISUAL_TOKENS, write_tiny_llava


def test_a_sparse_checkpoint_is_traced_and_checked(tmp_path: Path) -> None:
    write_tiny_llava(tmp_path / "real")
    config = as_config(json.loads((tmp_path / "real" / "config.json").read_text(encoding="utf-8")))
    write_random_checkpoint(config, tmp_path / "sparse", sparse=True)
    row = trace_table.traced(tmp_path / "sparse")
    assert row["visual_tokens"] == VISUAL_TOKENS
    assert list(row["graphs"]) == ["vision", "prefix", "select", "suffix"]
    nodes = {name: graph["nodes"] for name, graph in row["graphs"].items()}
    assert nodes["suffix"] > nodes["prefix"] > nodes["select"] > 0
    assert row["peak_rss_mib"] > 100
    rows = [{"name": "a", "model_type": "llava", "status": trace_table.TRACED} | row]
    rows += [{"name": "b", "model_type": "other", "status": trace_table.UNREGISTERED}]
    table = trace_table.markdown({"machine": {"cores": 1}, "configurations": rows})
    assert f"| a | llava | 0.00 B | {VISUAL_TOKENS} | vision {nodes['vision']}, prefix {nodes['prefix']}" in table
    assert "| b | other | family not registered |" in table


@pytest.mark.parametrize("columns", [4, 5])
def test_the_checker_reads_no_weight_and_sees_shapes_that_do_not_agree(columns: int, tmp_path: Path) -> None:
    def value(name: str, *shape: int, weight: ir.LazyTensor | None = None) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape), const_value=weight)

    def read() -> ir.Tensor:
        raise AssertionError("a weight was read")

    weight = value("weight", 4, 3, weight=ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape([4, 3]), name="weight"))
    taken, product = value("x", 2, columns), value("y", 2, 3)
    node = ir.Node("", "MatMul", [taken, weight], outputs=[product])
    graph = ir.Graph([taken], [product], nodes=[node], initializers=[weight], name="graph", opset_imports={"": 24})
    model = ir.Model(graph, ir_version=11)
    if columns == 4:
        trace_table.check(model, tmp_path / "graph.onnx")
        assert (tmp_path / "graph.onnx.data").stat().st_size == 4 * 3 * 4
    else:
        with pytest.raises(onnx.shape_inference.InferenceError):
            trace_table.check(model, tmp_path / "graph.onnx")
