"""What a build is expected to take, and when a user is warned."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastv_runtime.backends.tensorrt.gpu import Gpu
from fastv_runtime.config.bundle import FileDigest, Manifest
from fastv_runtime.tensorrt_build.preflight import (
    BUILDER,
    GIB,
    HOST_COPIES,
    Needs,
    available_memory,
    estimate,
    warnings,
)
from tests.runtime.test_build_profiles import FIXED, manifest

NANO = Gpu("Orin", "SM87", 8, 8 * GIB, integrated=True)
DESKTOP = Gpu("RTX", "SM89", 60, 8 * GIB, integrated=False)


def heavy() -> Manifest:
    """A prefix of 1 GiB and a suffix of 3 GiB."""
    made = manifest(FIXED)
    data = {
        f"onnx/{name}.onnx.data": FileDigest(sha256="0" * 64, size=size * GIB)
        for name, size in (("prefix", 1), ("suffix", 3))
    }
    return made.model_copy(update={"files": made.files | data})


def test_a_build_is_as_heavy_as_its_heaviest_graph() -> None:
    made = heavy()
    needs = estimate(made, made.graphs, workspace=GIB)
    assert needs.build_host == pytest.approx(HOST_COPIES * 3 * GIB + BUILDER, abs=10)
    assert needs.build_gpu == pytest.approx(4 * GIB, abs=10)
    assert estimate(made, ["prefix"], None).build_gpu == pytest.approx(GIB, abs=10)
    assert estimate(made, [], None).build_gpu == 0


def test_running_takes_all_graphs_caches_and_rows() -> None:
    made = heavy()
    caches = 2 * 2 * 16 * 2 * (2 * (64 + 144 + 32) + 2 * (64 + 72 + 32))
    needs = estimate(made, ["prefix"], None)
    assert 4 * GIB + caches < needs.run_gpu < 4 * GIB + caches + 1_000_000


def test_nobody_is_warned_where_there_is_room() -> None:
    assert not warnings(Needs(GIB, GIB, GIB), NANO, 3 * GIB)
    assert not warnings(Needs(GIB, GIB, 100 * GIB), None, GIB)
    assert not warnings(Needs(100 * GIB, GIB, GIB), DESKTOP, None)


def test_one_memory_of_cpu_and_gpu_must_hold_both() -> None:
    (line,) = warnings(Needs(2 * GIB, 2 * GIB, GIB), NANO, 3 * GIB)
    assert "about 4.0 GiB of memory and 3.0 GiB are free" in line
    assert "swap" in line
    assert not warnings(Needs(2 * GIB, 2 * GIB, GIB), DESKTOP, 3 * GIB)


def test_a_gpu_that_is_too_small_is_named() -> None:
    lines = warnings(Needs(GIB, 9 * GIB, 10 * GIB), DESKTOP, 3 * GIB)
    assert [line.split(" takes")[0] for line in lines] == ["building", "running"]
    assert "9.0 GiB on a GPU of 8.0 GiB: give a smaller `workspace`" in lines[0]


def test_free_memory_is_what_linux_says(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert available_memory(meminfo) is None
    meminfo.write_text("MemTotal:       8000000 kB\nMemAvailable:    3000 kB\n")
    assert available_memory(meminfo) == 3000 * 1024
    meminfo.write_text("MemTotal:       8000000 kB\n")
    assert available_memory(meminfo) is None
