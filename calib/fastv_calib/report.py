"""placeholder"""

from __future__ import annotations
from fastv_export.calibration import Calibration


def report(calibration: Calibration, source: str, output: str) -> str:
    return ""
