"""A GPU through NVML, where nvidia-ml-py and a driver are installed: name, driver, clock, throttling, energy."""

from __future__ import annotations

from contextlib import suppress
from typing import Any


def first_gpu() -> tuple[Any, Any] | None:
    """NVML and its handle of the first GPU; None without either."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return None


def gpu_facts() -> dict[str, str]:
    """Name and driver, as far as the GPU says; empty without one."""
    found = first_gpu()
    if found is None:
        return {}
    nvml, gpu = found
    facts: dict[str, str] = {}
    for name, ask in (
        ("name", lambda: nvml.nvmlDeviceGetName(gpu)),
        ("driver", nvml.nvmlSystemGetDriverVersion),
        ("power_limit_w", lambda: f"{nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000:.0f}"),
    ):
        with suppress(nvml.NVMLError):
            facts[name] = str(ask())
    return facts


def gpu_state() -> dict[str, float]:
    """Clock in MHz, temperature in Celsius and whether heat or power slow it now (0 or 1), as far as the GPU says."""
    found = first_gpu()
    if found is None:
        return {}
    nvml, gpu = found
    slow = (
        nvml.nvmlClocksThrottleReasonSwThermalSlowdown
        | nvml.nvmlClocksThrottleReasonHwSlowdown
        | nvml.nvmlClocksThrottleReasonSwPowerCap
    )
    state: dict[str, float] = {}
    for name, ask in (
        ("gpu_mhz", lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
        ("gpu_c", lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
        ("gpu_throttled", lambda: bool(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu) & slow)),
    ):
        with suppress(nvml.NVMLError):
            state[name] = float(ask())
    return state
