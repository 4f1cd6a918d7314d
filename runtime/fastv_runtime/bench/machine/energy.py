"""Energy where the machine tells: a Jetson's rails, a GPU's counter, a processor's counter."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fastv_runtime.bench.machine.nvml import first_gpu
from fastv_runtime.bench.machine.tegrastats import parse

INTERVAL_MS = 100
"""Between two lines of tegrastats: a turn of a second has ten."""

POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """Counts energy from when it is made."""

    name: str
    """What is counted."""

    def joules(self) -> float:
        """Until now."""

    def close(self) -> None: ...


def find_meter(device: str | None) -> Meter | None:
    """What counts the energy of turns on `device` (`cpu`, `cuda`); None where nothing does."""
    if shutil.which("tegrastats"):
        return Rails()
    if device == "cuda":
        return _nvml()
    return _powercap(POWERCAP)


class Integral:
    """Watts that come now and then, summed to joules: each holds until the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._joules = 0.0
        self._watts = 0.0
        self._since = clock()

    def add(self, watts: float) -> None:
        """The power from now on."""
        self._joules, self._since = self.joules(), self._clock()
        self._watts = watts

    def joules(self) -> float:
        return self._joules + self._watts * (self._clock() - self._since)


class Rails:
    """A Jetson's rails, as tegrastats prints them."""

    def __init__(self) -> None:
        self._integral = Integral()
        self._lock = threading.Lock()
        self.name = "tegrastats"
        self._process = subprocess.Popen(
            ["tegrastats", "--interval", str(INTERVAL_MS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def joules(self) -> float:
        with self._lock:
            return self._integral.joules()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                power = parse(line).power()
            except ValueError:
                continue
            if power is not None:
                with self._lock:
                    self._integral.add(power[0])
                self.name = f"tegrastats: {' + '.join(power[1])}"


class Counter:
    """A counter that the machine keeps. `read`: its joules; `limit`: joules at which it starts again from 0."""

    def __init__(self, name: str, read: Callable[[], float], limit: float | None = None):
        self.name = name
        self._read, self._limit = read, limit
        self._last = read()
        self._joules = 0.0

    def joules(self) -> float:
        now = self._read()
        step = now - self._last
        self._joules += step if step >= 0 or self._limit is None else step + self._limit
        self._last = now
        return self._joules

    def close(self) -> None:
        pass


def _nvml() -> Meter | None:
    found = first_gpu()
    if found is None:
        return None
    nvml, gpu = found
    try:
        return Counter("GPU (NVML)", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000)
    except nvml.NVMLError:
        return None  # older than Volta, or a Jetson


def _powercap(root: Path) -> Meter | None:
    package = root / "intel-rapl:0"  # AMD's processors have it under the same name
    energy, limit = package / "energy_uj", package / "max_energy_range_uj"
    try:
        wraps = int(limit.read_text(encoding="ascii")) / 1e6
        return Counter("processor package (RAPL)", lambda: int(energy.read_text(encoding="ascii")) / 1e6, wraps)
    except OSError:
        return None  # there is none, or it is root's
