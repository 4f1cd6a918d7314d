"""Where figures were measured: what does not change during a run."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastv_runtime.backends.tensorrt.gpu import find_gpu
from fastv_runtime.bench.machine.jetson import board, jetson_facts
from fastv_runtime.bench.machine.nvml import gpu_facts
from fastv_runtime.config.base import StrictModel

PACKAGES = (
    "fastv-edge",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-python",
    "transformers",
    "numpy",
    "pillow",
)


class Environment(StrictModel):
    """A machine and its software. None or missing: it does not say."""

    device: str
    """Board or processor."""
    architecture: str
    cores: int
    """Physical cores that the process may run on are at most these."""
    usable: int
    """Processors that the process may run on."""
    memory: int
    """Bytes."""
    system: str
    python: str
    gpu: dict[str, str]
    """Name, driver, capability, memory; empty without one."""
    jetson: dict[str, str]
    """L4T, JetPack, power mode; empty elsewhere."""
    governor: str | None
    """What sets the processor's clock."""
    versions: dict[str, str]
    """Of the packages that matter, where they are installed."""


def capture() -> Environment:
    """The machine at hand. Raises UserError without psutil."""
    psutil = load_psutil()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return Environment(
        device=board() or _processor(),
        architecture=platform.machine(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count(),
        usable=usable,
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gpu=_gpu(),
        jetson=jetson_facts(),
        governor=governor.read_text(encoding="ascii").strip() if governor.is_file() else None,
        versions=_versions(),
    )


def differences(old: Environment, new: Environment) -> list[str]:
    """What is not the same, a line each."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name}: {before.get(name, 'none')} before, {after.get(name, 'none')} now"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def load_psutil() -> Any:
    """The psutil module. Raises UserError where it is not installed."""
    try:
        import psutil
    except ImportError:
        from fastv_runtime.errors import missing_extra

        raise missing_extra("psutil", "bench") from None
    return psutil


def _flat(environment: Environment) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in environment.model_dump().items():
        flat |= (
            {f"{name} {key}": each for key, each in value.items()} if isinstance(value, dict) else {name: str(value)}
        )
    return flat


def _gpu() -> dict[str, str]:
    gpu = find_gpu()
    facts = {} if gpu is None else {"name": gpu.name, "capability": gpu.capability, "memory": str(gpu.memory)}
    return facts | gpu_facts()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
