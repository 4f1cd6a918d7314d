"""One TensorRT engine on the fake device: memory that it cannot use is staged, and what does not fit is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fastv_runtime import UserError
from fastv_runtime.backends.cuda import Cuda
from fastv_runtime.backends.tensorrt.engine import TrtBackend, TrtEngine
from fastv_runtime.memory.buffers import Buffer
from fastv_runtime.memory.layout import Region
from tests.fakes.cuda import FakeCuda
from tests.fakes.tensorrt import fake_tensorrt


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


@pytest.fixture
def cuda(fake: FakeCuda) -> Cuda:
    return Cuda("trt")


@pytest.fixture
def appending(tmp_path: Path, fake: FakeCuda, cuda: Cuda) -> TrtEngine:
    """present = past + sum of x's rows, in place; y = x + x. x has 1 to 9 rows of 2."""
    x, past = (
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name, shape in (("x", ["S", 2]), ("past", [1, 2]))
    )
    double = ir.node("Add", [x, x])
    total = ir.node("ReduceSum", [x, _axes([0])], {"keepdims": 1})
    append = ir.node("Add", [past, total.outputs[0]])
    for node, name, shape in ((double, "y", ["S", 2]), (append, "present", [1, 2])):
        output = node.outputs[0]
        output.name, output.shape, output.type = name, ir.Shape(shape), x.type
    axes = total.inputs[1]
    assert axes is not None
    graph = ir.Graph(
        [x, past],
        [double.outputs[0], append.outputs[0]],
        nodes=[double, total, append],
        initializers=[axes],
        opset_imports={"": 20},
        name="appending",
    )
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "appending.onnx")
    path = tmp_path / "appending.engine"
    path.write_text(json.dumps({"graph": str(tmp_path / "appending.onnx"), "profiles": [{"S": (1, 9)}]}))
    return TrtBackend(fake_tensorrt(fake), cuda, {"appending": path}).engine("appending")


def _axes(values: list[int]) -> ir.Value:
    tensor = ir.tensor(np.asarray(values, np.int64), name="axes")
    return ir.Value(name="axes", shape=tensor.shape, type=ir.TensorType(ir.DataType.INT64), const_value=tensor)


def test_host_arrays_are_copied_in_and_out_and_a_cache_stays_one(appending: TrtEngine, fake: FakeCuda) -> None:
    x, y, cache = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32), np.zeros((1, 2), np.float32)
    binding = appending.bind({"x": x, "past": cache}, {"y": y, "present": cache})
    binding.run()
    assert (y == 2).all() and (cache == 3).all()
    x[:] = 5
    binding.run()
    assert (y == 10).all() and (cache == 18).all()
    addresses = binding._context._addresses
    assert addresses["past"] == addresses["present"], "TensorRT appends in place, and at one address alone"
    fake.check_guards()


def test_rows_that_are_not_aligned_go_through_memory_that_is(appending: TrtEngine, cuda: Cuda, fake: FakeCuda) -> None:
    block = Buffer(cuda.allocate(1024), Region(0, "float32", (1, 40, 2)))
    block.write(np.zeros((1, 40, 2), np.float32))
    rows = block.rows(3, 5)
    x, cache = np.ones((2, 2), np.float32), np.zeros((1, 2), np.float32)
    fake.copies.clear()
    appending.bind({"x": x, "past": cache}, {"y": rows, "present": cache}).run()
    assert ("DeviceToDevice", 16) in fake.copies
    np.testing.assert_array_equal(block.array()[0, 2:6, 0], [0, 2, 2, 0])
    # Row 32 is 256 bytes on: written where it is.
    fake.copies.clear()
    appending.bind({"x": x, "past": cache}, {"y": block.rows(32, 34), "present": cache}).run()
    assert "DeviceToDevice" not in {kind for kind, _ in fake.copies}
    np.testing.assert_array_equal(block.array()[0, 31:35, 0], [0, 2, 2, 0])


def test_an_output_that_would_not_fit_is_an_error_before_the_run(appending: TrtEngine) -> None:
    cache, y = np.zeros((1, 2), np.float32), np.zeros((3, 2), np.float32)
    binding = appending.bind({"x": np.ones((4, 2), np.float32), "past": cache}, {"y": y, "present": cache})
    with pytest.raises(RuntimeError, match=r"cannot write y \(4, 2\) to a buffer of shape \(3, 2\)"):
        binding.run()
    assert not cache.any()


def test_more_rows_than_the_engine_bears_are_refused(appending: TrtEngine) -> None:
    cache = np.zeros((1, 2), np.float32)
    x = np.ones((10, 2), np.float32)
    with pytest.raises(UserError, match=r"appending: x is 10x2 and the engine was built for 1x2 to 9x2: .*fastv-build"):
        appending.bind({"x": x, "past": cache}, {"y": x.copy(), "present": cache})


def test_an_engine_of_another_graph_is_refused(appending: TrtEngine) -> None:
    x = np.ones((2, 2), np.float32)
    with pytest.raises(UserError, match="appending: the engine's inputs and outputs are not those of the bundle's"):
        appending.bind({"x": x}, {"y": x.copy()})


def test_a_file_that_is_no_engine_is_named_in_one_line(tmp_path: Path, fake: FakeCuda, cuda: Cuda) -> None:
    path = tmp_path / "bad.engine"
    path.write_bytes(b"not an engine")
    with pytest.raises(UserError, match=r"bad\.engine: tensorrt 10\.16\.0 cannot load this .*failed: .*fastv-build"):
        TrtBackend(fake_tensorrt(fake), cuda, {"bad": path})
