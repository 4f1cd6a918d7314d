"""What the machine did during a run: load of others, clocks, temperatures, throttling."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastv_runtime.bench.machine.environment import load_psutil
from fastv_runtime.bench.machine.nvml import gpu_state
from fastv_runtime.config.base import StrictModel

SYS = Path("/sys")
EVENTS = {
    "cpu throttling": "devices/system/cpu/cpu*/thermal_throttle/core_throttle_count",
    "over-current": "class/hwmon/hwmon*/oc*_event_cnt",
}
"""Counters that only go up when heat or current slow the machine: Intel's, Jetson's."""


class Conditions(StrictModel):
    """Begin and end of a run, and what happened between."""

    seconds: float
    load_of_others: float | None
    """Share of the processors' time that went to anything but this program and its children."""
    cpu_mhz: tuple[float, float] | None
    """At the beginning and at the end."""
    temperatures: dict[str, tuple[float, float]]
    """Degrees Celsius, likewise, by sensor."""
    throttled: dict[str, int]
    """Events that slowed the machine, by kind."""
    gpu_mhz: tuple[float, float] | None


class Watch:
    """Begins to watch when it is made."""

    def __init__(self, sys: Path = SYS) -> None:
        self._psutil = load_psutil()
        self._sys = sys
        self._start = self._look()

    def conditions(self) -> Conditions:
        """From the beginning until now."""
        begin, end = self._start, self._look()
        seconds = end["time"] - begin["time"]
        gpu = (begin["gpu"], end["gpu"])
        temperatures = {
            name: (begin["temperatures"][name], value)
            for name, value in end["temperatures"].items()
            if name in begin["temperatures"]
        }
        throttled = {name: end["events"][name] - begin["events"].get(name, 0) for name in end["events"]}
        if any(each.get("gpu_throttled") for each in gpu):
            throttled["gpu"] = sum(int(each.get("gpu_throttled", 0)) for each in gpu)
        return Conditions(
            seconds=seconds,
            load_of_others=load_of_others(
                end["busy"] - begin["busy"], end["own"] - begin["own"], seconds * self._psutil.cpu_count()
            ),
            cpu_mhz=None if end["mhz"] is None or begin["mhz"] is None else (begin["mhz"], end["mhz"]),
            temperatures=temperatures,
            throttled={name: count for name, count in throttled.items() if count},
            gpu_mhz=None if any("gpu_mhz" not in each for each in gpu) else (gpu[0]["gpu_mhz"], gpu[1]["gpu_mhz"]),
        )

    def _look(self) -> dict[str, Any]:
        psutil = self._psutil
        times = psutil.cpu_times()
        gpu = gpu_state()
        frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
        sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        temperatures = {
            f"{chip} {each.label}".strip(): each.current for chip, found in sensors.items() for each in found
        }
        return {
            "time": time.perf_counter(),
            # Time that a hypervisor gave to its other guests is busy as well: somebody else had the processor.
            "busy": sum(times) - times.idle - getattr(times, "iowait", 0.0) - _guest(times),
            "own": _own_seconds(psutil),
            "mhz": frequency.current if frequency else None,
            "temperatures": temperatures | ({"GPU": gpu["gpu_c"]} if "gpu_c" in gpu else {}),
            "events": {name: _count(self._sys, pattern) for name, pattern in EVENTS.items()},
            "gpu": gpu,
        }


def load_of_others(busy: float, own: float, available: float) -> float | None:
    """Share of `available` processor seconds that were busy for others. None over no time."""
    return min(1.0, max(0.0, (busy - own) / available)) if available > 0 else None


def _guest(times: Any) -> float:
    """Linux counts a guest's time twice: once more as a user's."""
    return getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)


def _own_seconds(psutil: Any) -> float:
    """Processor time of this process, of its children that have ended and of those that run."""
    own = psutil.Process()
    total: float = sum(own.cpu_times()[:4])
    for child in own.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:2])
        except psutil.Error:
            continue  # it has ended meanwhile
    return total


def _count(sys: Path, pattern: str) -> int:
    counters = [path.read_text(encoding="ascii").strip() for path in sys.glob(pattern)]
    return sum(int(text) for text in counters if text.isdigit())
