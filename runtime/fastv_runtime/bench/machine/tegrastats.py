"""Lines of `tegrastats`, the status that a Jetson prints: memory, clocks, temperatures, power. Pure.

Fields as in NVIDIA's Jetson Linux Developer Guide, "Tegrastats Utility". Releases differ: rails have one, two or three
values (now, average, peak), temperatures one or two (now, peak), a GPU a load, clocks, both or neither. Fields that
are not known are skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOTAL_RAILS = ("VDD_IN", "VIN")
"""Rails that carry all the others: of the module (Orin NX and Nano), of the board (Thor)."""

MODULE_RAILS = ("VDD_GPU_SOC", "VDD_GPU", "VDD_CPU_CV", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
"""Rails that together are a module's, where none carries all: AGX Orin, and Thor without its board's."""

OFF = -256.0
"""What a sensor reads whose part is powered down."""


@dataclass(frozen=True)
class TegrastatsSample:
    """One line. Empty or None: the line does not say."""

    ram_used: int | None
    """Bytes; of the CPU and an integrated GPU together."""
    ram_total: int | None
    cpus: tuple[tuple[int, int] | None, ...]
    """Load in percent and clock in MHz of each core; None for one that is off."""
    gpu_load: int | None
    """Percent."""
    gpu_mhz: tuple[int, ...]
    """Clock of each cluster."""
    temperatures: dict[str, float]
    """Degrees Celsius by sensor."""
    watts: dict[str, float]
    """At this moment, by rail."""

    def power(self) -> tuple[float, tuple[str, ...]] | None:
        """Watts in all, and the rails that they are read from; None where the line names no rail that is known."""
        for name in TOTAL_RAILS:
            if name in self.watts:
                return self.watts[name], (name,)
        rails = tuple(name for name in MODULE_RAILS if name in self.watts)
        return (sum(self.watts[name] for name in rails), rails) if rails else None


def parse(line: str) -> TegrastatsSample:
    """One line of output; ValueError for one that is not tegrastats'."""
    ram = re.search(r"\bRAM (\d+)/(\d+)MB\b", line)
    cpus = re.search(r"\bCPU \[([^\]]*)\](?:@(\d+))?", line)
    if ram is None and cpus is None:
        raise ValueError(f"not a line of tegrastats: {line[:60]!r}")
    gpu = re.search(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+))?", line)
    return TegrastatsSample(
        ram_used=None if ram is None else int(ram[1]) << 20,
        ram_total=None if ram is None else int(ram[2]) << 20,
        cpus=() if cpus is None else tuple(_core(core, cpus[2]) for core in cpus[1].split(",")),
        gpu_load=int(gpu[1]) if gpu and gpu[1] else None,
        gpu_mhz=tuple(map(int, gpu[2].split(","))) if gpu and gpu[2] else (),
        temperatures={
            name: float(value)
            for name, value in re.findall(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b", line)
            if float(value) != OFF
        },
        watts={name: int(value) / 1000 for name, value in re.findall(r"\b([A-Z]\w*) (\d+)mW\b", line) if name != "NC"},
    )


def _core(text: str, shared_clock: str | None) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+)%(?:@(\d+))?", text.strip())
    return None if found is None else (int(found[1]), int(found[2] or shared_clock or 0))
