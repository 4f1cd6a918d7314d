"""Offsets, leading parts and rows of regions, and nothing that reaches past an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastv_runtime.config.base import DType
from fastv_runtime.memory.layout import ALIGNMENT, Layout, Region

DTYPES: dict[DType, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "bool": 1}

specs = st.dictionaries(
    st.text(max_size=4),
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 9), max_size=4).map(tuple)),
)


@given(specs)
def test_regions_are_aligned_and_do_not_meet(named: dict[str, tuple[DType, tuple[int, ...]]]) -> None:
    layout = Layout(named)
    end = 0
    for name, (dtype, shape) in named.items():
        region = layout[name]
        size = DTYPES[dtype]
        for axis in shape:
            size *= axis
        assert (region.dtype, region.shape, region.nbytes) == (dtype, shape, size)
        assert region.offset % ALIGNMENT == 0
        assert region.offset >= end
        end = region.offset + region.nbytes
    assert end <= layout.nbytes < end + ALIGNMENT


def test_the_leading_part_starts_where_the_region_does() -> None:
    region = Region(512, "float16", (1, 10, 8))
    assert region.leading((1, 7, 8)) == Region(512, "float16", (1, 7, 8))
    assert region.leading((80,)).nbytes == region.nbytes
    with pytest.raises(ValueError, match=r"\(1, 11, 8\) reaches past the end of a buffer of shape \(1, 10, 8\)"):
        region.leading((1, 11, 8))


def test_rows_are_where_they_lie_in_the_array() -> None:
    region = Region(512, "float16", (1, 10, 8))
    assert region.rows(3, 5) == Region(512 + 3 * 16, "float16", (2, 8))
    assert region.rows(10, 10).nbytes == 0
    assert region.rows(2, 9).rows(3, 5) == region.rows(5, 7)
    for start, stop in ((9, 11), (-1, 2), (5, 4)):
        with pytest.raises(ValueError, match="reach past the end"):
            region.rows(start, stop)
    with pytest.raises(ValueError, match="reach past the end"):
        Region(0, "float16", (3, 1, 8)).rows(0, 1)
