"""The machine and the versions that a figure was measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("onnxruntime", "torch", "transformers")


def machine() -> dict[str, str | int | None]:
    """Processor, cores, and the versions of PACKAGES."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.split(":", 1)[1].strip() for line in cpu if "model name" in line),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), **{name: version(name) for name in PACKAGES}}
