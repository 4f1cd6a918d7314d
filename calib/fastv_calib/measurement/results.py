"""Measurements on disk, a line a sample, so that an interrupted sweep goes on where it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from fastv_calib.measurement.activations import StatisticsFiles
from fastv_calib.measurement.measure import Measured
from fastv_export.calibration import CalibrationSettings
from fastv_runtime.config.base import StrictModel
from fastv_runtime.errors import UserError
from fastv_runtime.files import write_atomically

VERSION = 2


class Header(StrictModel):
    """The first line: measurements of another header are not mixed with these."""

    version: int
    key: str
    """sha256 of the checkpoint's digests and the settings."""
    threads: int
    """Per sample; figures' last bits depend on it."""


class Results:
    """The file of measurements beside a calibration; opened for going on if it is there."""

    def __init__(self, path: Path, source: dict[str, str], settings: CalibrationSettings, threads: int):
        """threads: of measurements to come, where there are none; those that are there say theirs.

        Raises UserError if the file holds measurements of another checkpoint, or by other settings."""
        decisive = json.dumps([source, settings.model_dump(mode="json")], sort_keys=True)
        self.source = source
        self._path = path
        self._header = Header(version=VERSION, key=hashlib.sha256(decisive.encode()).hexdigest(), threads=threads)
        self.measured: dict[str, Measured] = {}
        if path.exists() and path.stat().st_size:
            self._read()
        else:
            self._append(self._header)
        key = f"{self._header.key} {self._header.threads}"
        self.statistics = StatisticsFiles(path.with_suffix("").with_suffix(".activations"), key)

    @property
    def threads(self) -> int:
        """On which every sample is measured, whoever goes on with the file."""
        return self._header.threads

    def add(self, measured: Measured) -> None:
        """Keep a sample's measurements; on disk when this returns."""
        self._append(measured)
        self.measured[measured.key] = measured

    def _append(self, line: StrictModel) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

    def _read(self) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        header = _header(lines[0]) if lines else None
        if header is None or (header.version, header.key) != (self._header.version, self._header.key):
            if header is not None and len(lines) == 1:  # of a call that was refused before it measured anything
                write_atomically(self._path, self._header.model_dump_json() + "\n")
                return
            raise UserError(
                f"{self._path}: has measurements of another checkpoint or by other settings: "
                "remove it, or give another `output`"
            )
        self._header = header
        for number, line in enumerate(lines[1:], 2):
            try:
                measured = Measured.model_validate_json(line)
            except ValidationError:
                raise UserError(f"{self._path}:{number}: not a line of measurements: remove that line") from None
            self.measured[measured.key] = measured
        if len(whole) < len(data):  # the last write was cut short
            with self._path.open("r+b") as file:
                file.truncate(len(whole))


def _header(line: bytes) -> Header | None:
    try:
        return Header.model_validate_json(line)
    except ValidationError:
        return None
