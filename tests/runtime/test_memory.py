"""Buffers on the host: views without copies, and shapes and kinds of elements that must agree."""

from __future__ import annotations

import numpy as np
import pytest

from fastv_runtime.memory.arena import Arena
from fastv_runtime.memory.buffers import HostMemory, as_buffer
from fastv_runtime.memory.layout import ALIGNMENT, Layout


@pytest.fixture
def arena() -> Arena:
    layout = Layout({"x": ("float32", (1, 4, 2)), "flags": ("bool", (3,)), "bits": ("bfloat16", (2,))})
    return Arena(layout, HostMemory.allocate)


def test_an_arena_is_one_aligned_block_of_zeros(arena: Arena) -> None:
    assert arena["x"].address % ALIGNMENT == 0
    assert arena["flags"].address == arena["x"].address + arena.layout["flags"].offset
    assert not arena["x"].array().any()


def test_what_is_written_is_seen_through_every_view(arena: Arena) -> None:
    whole = arena["x"].array()
    arena["x"].rows(1, 3).write(np.asarray([[1, 2], [3, 4]], np.float32))
    np.testing.assert_array_equal(whole[0], [[0, 0], [1, 2], [3, 4], [0, 0]])
    whole[0, 3] = 7
    np.testing.assert_array_equal(arena["x"].rows(3, 4).array(), [[7, 7]])
    arena["x"].rows(2, 4).zero()
    np.testing.assert_array_equal(whole[0], [[0, 0], [1, 2], [0, 0], [0, 0]])


def test_elements_are_cast_within_their_kind(arena: Arena) -> None:
    arena["x"].write(np.full((1, 4, 2), 0.5, np.float64))
    assert (arena["x"].array() == 0.5).all()
    arena["flags"].write(np.asarray([True, False, True]))
    np.testing.assert_array_equal(arena["flags"].array(), [True, False, True])
    # numpy has no bfloat16: bits go in as they are, and numbers that would be cut to integers do not.
    arena["bits"].write(np.asarray([0x3F80, 0x4000], np.uint16))
    with pytest.raises(TypeError, match="Cannot cast"):
        arena["bits"].write(np.ones(2, np.float32))


def test_a_shape_that_does_not_fit_is_refused(arena: Arena) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 2\) for a buffer of shape \(1, 4, 2\)"):
        arena["x"].write(np.zeros((1, 3, 2), np.float32))


def test_a_host_array_is_a_buffer_where_it_lies() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    buffer = as_buffer("x", array)
    assert (buffer.address, buffer.dtype, buffer.shape) == (array.ctypes.data, "int64", (2, 3))
    buffer.zero()
    assert not array.any()
    assert as_buffer("x", buffer) is buffer
    with pytest.raises(ValueError, match="buffer of x is not contiguous"):
        as_buffer("x", np.zeros((2, 3)).T)
