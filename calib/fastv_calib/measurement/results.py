"""Measurements on disk, a line a sample, so that an interrupted sweep goes on where it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from fastv_calib.measurement.activations import StatisticsFiles
from fastv_calib.measurement.outcomes import Measured
from fastv_export.calibration import CalibrationSettings
from fastv_export.points import said
from fastv_runtime.config.base import StrictModel
from fastv_runtime.errors import UserError
from fastv_runtime.files import writing

VERSION = 4


class Header(StrictModel):
    """The first line: measurements of another header are not mixed with these."""

    version: int
    source: dict[str, str]
    """sha256 of the checkpoint's files."""
    settings: CalibrationSettings
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
        self._header = Header(version=VERSION, source=source, settings=settings, threads=threads)
        self.measured: dict[str, Measured] = {}
        if path.exists() and path.stat().st_size:
            self._read()
        key = f"{hashlib.sha256(decisive.encode()).hexdigest()} {self._header.threads}"
        self.statistics = StatisticsFiles(path.with_suffix("").with_suffix(".activations"), key)

    @property
    def threads(self) -> int:
        """On which every sample is measured, whoever goes on with the file."""
        return self._header.threads

    def add(self, measured: Measured) -> None:
        """Keep a sample's measurements; on disk when this returns. Raises UserError where it cannot be written."""
        if not self.measured:  # a file that says no more than what it would be would only be in the way
            with writing(self._path):
                self._path.write_bytes(b"")
            self._append(self._header)
        self._append(measured)
        self.measured[measured.key] = measured

    def _append(self, line: StrictModel) -> None:
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

    def _read(self) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if len(lines) < 2:
            return  # nothing was measured: whatever its first line says is of no account
        self._header = self._same(lines[0])
        for number, line in enumerate(lines[1:], 2):
            try:
                measured = Measured.model_validate_json(line)
            except ValidationError:
                raise UserError(f"{self._path}:{number}: not a line of measurements: remove that line") from None
            self.measured[measured.key] = measured
        if len(whole) < len(data):  # the last write was cut short
            with writing(self._path), self._path.open("r+b") as file:
                file.truncate(len(whole))

    def _same(self, line: bytes) -> Header:
        """The header of the file, if measurements like its may be added. Raises UserError, which says what differs."""
        ours, instead = self._header, "remove it, or give another `output`"
        try:
            theirs = Header.model_validate_json(line)
        except ValidationError:
            theirs = None
        if theirs is None or theirs.version != ours.version:
            raise UserError(f"{self._path}: is no file of measurements of this version: {instead}")
        if theirs.source != ours.source:
            raise UserError(f"{self._path}: has measurements of another checkpoint: {instead}")
        if theirs.settings != ours.settings:
            there, here = dict(theirs.settings), dict(ours.settings)
            differs = [f"`{name}` {_said(there[name])}" for name in here if there[name] != here[name]]
            raise UserError(
                f"{self._path}: has measurements by other settings, {', '.join(differs)}: go on with these, {instead}"
            )
        return theirs


def _said(value: object) -> str:
    """A setting as it is typed."""
    if isinstance(value, tuple):
        return " ".join(map(_each, value)) if value else "left out"
    return "left out" if value is None else str(value)


def _each(value: object) -> str:
    if isinstance(value, tuple):  # the cuts of a plan
        return said(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
