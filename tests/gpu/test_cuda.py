"""What the fake device of the other tests takes for granted, asked of a real one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fastv_runtime.backends.cuda import Cuda, CudaError, DeviceMemory, MappedMemory
from fastv_runtime.memory.buffers import Buffer, Memory
from fastv_runtime.memory.layout import ALIGNMENT, Region


@pytest.mark.parametrize("allocate", [DeviceMemory, MappedMemory])
def test_memory_is_zeroed_aligned_and_holds_what_is_written(cuda: Cuda, allocate: Callable[..., Memory]) -> None:
    block = Buffer(allocate(cuda, 4096), Region(0, "float32", (1, 16, 64)))
    assert block.address % ALIGNMENT == 0
    assert not block.array().any()
    rows = np.arange(128, dtype=np.float32).reshape(2, 64)
    block.rows(3, 5).write(rows)
    cuda.copy(block.rows(7, 9).address, block.rows(3, 5).address, rows.nbytes)
    block.rows(3, 4).zero()
    expected = np.zeros((1, 16, 64), np.float32)
    expected[0, 4], expected[0, 7:9] = rows[1], rows
    np.testing.assert_array_equal(block.array(), expected)


def test_recorded_work_is_done_when_it_is_launched(cuda: Cuda) -> None:
    block = Buffer(DeviceMemory(cuda, 4096), Region(0, "int64", (4, 8)))
    launch = cuda.record(lambda: cuda.copy(block.rows(1, 2).address, block.rows(0, 1).address, 64))
    for value in (3, 4):
        block.rows(0, 1).write(np.full((1, 8), value))
        assert (block.rows(1, 2).array() != value).all()
        launch()
        assert (block.rows(1, 2).array() == value).all()


def test_work_that_cannot_be_recorded_leaves_the_stream_usable(cuda: Cuda) -> None:
    with pytest.raises(CudaError):
        cuda.record(cuda.synchronize)
    block = Buffer(DeviceMemory(cuda, 64), Region(0, "int64", (8,)))
    block.write(np.arange(8))
    np.testing.assert_array_equal(block.array(), np.arange(8))
