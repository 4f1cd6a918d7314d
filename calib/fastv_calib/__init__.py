"""Which cuts and ranker a model supports on somebody's own images: measured, with intervals.

The public API is here, imported when it is first used: torch takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastv_calib.api import calibrate
    from fastv_export.calibration import Calibration, read_calibration
    from fastv_runtime.errors import UserError
    from fastv_runtime.versions import __version__

__all__ = ["Calibration", "UserError", "__version__", "calibrate", "read_calibration"]

_MODULES = {
    "Calibration": "fastv_export.calibration",
    "UserError": "fastv_runtime.errors",
    "__version__": "fastv_runtime.versions",
    "calibrate": "fastv_calib.api",
    "read_calibration": "fastv_export.calibration",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
