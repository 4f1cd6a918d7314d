"""The machine: what it is, what it did meanwhile, what it used."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fastv_runtime.bench.machine.conditions import Watch
from fastv_runtime.bench.machine.energy import _powercap, find_meter
from fastv_runtime.bench.machine.environment import capture, differences
from fastv_runtime.bench.machine.resident import peak_memory, resident_memory
from tests.runtime.bench.test_jetson import ORIN_NANO


def test_the_environment_names_what_figures_depend_on() -> None:
    found = capture()
    assert found.device and found.cores >= 1 and found.memory > 2**28
    assert {"fastv-edge", "onnxruntime", "numpy"} <= set(found.versions)
    assert differences(found, found) == []
    other = found.model_copy(update={"versions": found.versions | {"onnxruntime": "0"}, "governor": "powersave"})
    assert [line.split(":")[0] for line in differences(found, other)] == ["governor", "versions onnxruntime"]


def test_events_that_slow_the_machine_are_counted(tmp_path: Path) -> None:
    counter = tmp_path / "class" / "hwmon" / "hwmon3" / "oc1_event_cnt"
    counter.parent.mkdir(parents=True)
    counter.write_text("5\n")
    watch = Watch(sys=tmp_path)
    assert watch.conditions().throttled == {}
    counter.write_text("7\n")
    found = watch.conditions()
    assert found.throttled == {"over-current": 2}
    assert found.load_of_others is not None and 0 <= found.load_of_others <= 1 and found.seconds > 0


def test_a_processors_energy_counter_wraps(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    assert _powercap(tmp_path) is None
    package.mkdir()
    (package / "energy_uj").write_text("9000000")
    (package / "max_energy_range_uj").write_text("10000000")
    meter = _powercap(tmp_path)
    assert meter is not None
    (package / "energy_uj").write_text("500000")
    assert meter.joules() == pytest.approx(1.5)


def test_a_jetsons_rails_are_read_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tegrastats"
    # A program in tegrastats' place, that prints one line and goes on running.
    program.write_text(f"#!/bin/sh\necho '{ORIN_NANO}'\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    meter = find_meter("cuda")
    assert meter is not None
    before = meter.joules()
    for _ in range(1000):
        if (after := meter.joules()) > before:
            break
        time.sleep(0.01)
    meter.close()
    assert after > before and meter.name == "tegrastats: VDD_IN"


def test_memory_is_read_from_the_kernels_own_account(tmp_path: Path) -> None:
    status = tmp_path / "status"
    assert peak_memory(status) is None
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    assert (peak_memory(status), resident_memory(status)) == (2 << 20, 1 << 20)
