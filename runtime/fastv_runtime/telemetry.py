"""ONNX Runtime's telemetry, off: its packages from 1.32 on send events and keep an identifier of the device.

ONNX Runtime decides when it is imported (its pull request 27379), so this runs as soon as `fastv_runtime` is.
"""

from __future__ import annotations

import os

SWITCH = "ORT_DISABLE_TELEMETRY"


def switch_off() -> None:
    """For this process and those that it starts. Who has set the variable decides."""
    os.environ.setdefault(SWITCH, "1")
