"""Memory and recorded work of a device, on the fake one; `tests/gpu` asks a real one the same."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastv_runtime.backends.cuda import Cuda, CudaError
from fastv_runtime.memory.buffers import Buffer
from fastv_runtime.memory.layout import ALIGNMENT, Region
from tests.fakes.cuda import FakeCuda


@pytest.fixture(params=[False, True], ids=["own memory", "shared memory"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda(integrated=request.param)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


def block(cuda: Cuda) -> Buffer:
    return Buffer(cuda.allocate(1024), Region(0, "float32", (1, 4, 64)))


def test_memory_is_zeroed_aligned_and_holds_what_is_written(fake: FakeCuda) -> None:
    cuda = Cuda("trt")
    buffer = block(cuda)
    assert buffer.address % ALIGNMENT == 0
    assert not buffer.array().any()
    rows = np.arange(128, dtype=np.float32).reshape(2, 64)
    buffer.rows(1, 3).write(rows)
    rows[:] = 0  # it was taken when it was written
    cuda.copy(buffer.rows(0, 1).address, buffer.rows(2, 3).address, 256)
    buffer.rows(2, 3).zero()
    np.testing.assert_array_equal(buffer.array()[0, :, 0], [64, 0, 0, 0])
    fake.check_guards()


def test_a_view_of_shared_memory_keeps_it_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(integrated=True)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    view = block(Cuda("trt")).array()
    fake.check(view.ctypes.data, view.nbytes)
    address = view.ctypes.data
    del view
    with pytest.raises(AssertionError, match="not memory of the device"):
        fake.check(address, 4)


def test_what_cannot_be_recorded_leaves_the_stream_usable(fake: FakeCuda) -> None:
    cuda = Cuda("trt")
    with pytest.raises(CudaError, match="cudaStreamSynchronize"):
        cuda.record(cuda.synchronize)
    assert not block(cuda).array().any()
