"""A small calibration, as its tests ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastv_calib.cli import main as fastv_calibrate
from fastv_export.calibration import Calibration, read_calibration
from tests.processes import over

SAMPLES = 4
QUICK = ["--layers", "1", "2", "--keeps", "0.5", "0.1", "--rankers", "fastv", "random"]
QUICK += ["--answer-tokens", "3", "--min-agreement", "0.1"]


def calibrate(source: Path, data: Path, output: Path, *flags: str) -> Calibration:
    fastv_calibrate([str(source), "--data", str(data), "-o", str(output), *over(QUICK, flags)])
    return read_calibration(output)


def fails(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        calibrate(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err
