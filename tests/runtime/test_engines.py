"""The ONNX Runtime engine: buffers are read and written where they are, and a bad graph is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fastv_runtime import UserError
from fastv_runtime.backends.onnxruntime import OrtEngine
from fastv_runtime.backends.threads import default_threads


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """y = x + x"""
    value = ir.Value(name="x", shape=ir.Shape([1, "S", 2]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Add", [value, value])
    node.outputs[0].name = "y"
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 20}, name="doubling")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "doubling.onnx")
    return tmp_path / "doubling.onnx"


def test_a_binding_reads_and_writes_the_callers_buffers(doubling: Path) -> None:
    x, y = np.ones((1, 3, 2), np.float32), np.zeros((1, 3, 2), np.float32)
    binding = OrtEngine(doubling, threads=1).bind({"x": x}, {"y": y})
    binding.run()
    assert (y == 2).all()
    x[:] = 5
    binding.run()
    assert (y == 10).all()


def test_a_buffer_with_gaps_is_refused(doubling: Path) -> None:
    x = np.ones((1, 3, 4), np.float32)[:, :, :2]
    with pytest.raises(ValueError, match="buffer of x is not contiguous"):
        OrtEngine(doubling, threads=1).bind({"x": x}, {"y": np.zeros((1, 3, 2), np.float32)})


def test_a_graph_that_cannot_be_loaded_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"bad\.onnx: ONNX Runtime .* cannot load this graph") as caught:
        OrtEngine(tmp_path / "bad.onnx", threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_no_more_threads_than_cores_that_may_be_used() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= default_threads() <= len(before)
