"""Telemetry of what runs graphs, off.

ONNX Runtime's packages from 1.32 on send events and keep an identifier of the device. It decides when it is imported
(its pull request 27379), so `switch_off` runs as soon as `fastv_runtime` is. OpenVINO sends an event when it is
imported, from a process that it forks, and counts how often under the home directory, unless its package
`openvino-telemetry` is not there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SWITCH = "ORT_DISABLE_TELEMETRY"
OPENVINO = "openvino_telemetry"


def switch_off() -> None:
    """ONNX Runtime's, for this process and those that it starts. Who has set the variable decides."""
    os.environ.setdefault(SWITCH, "1")


@contextmanager
def without_openvinos() -> Iterator[None]:
    """OpenVINO that is imported in here finds its telemetry not installed, and puts a stub in its place."""
    held: Any = sys.modules.get(OPENVINO)
    sys.modules[OPENVINO] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[OPENVINO]
        if held is not None:
            sys.modules[OPENVINO] = held
