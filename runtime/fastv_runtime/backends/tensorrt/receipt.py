"""What was built, from what, and how it did: `receipt.json` beside the engines of a device."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict

from fastv_runtime.backends.tensorrt.module import PythonModule
from fastv_runtime.config.base import StrictModel
from fastv_runtime.config.bundle import Manifest
from fastv_runtime.errors import UserError
from fastv_runtime.files import write_atomically
from fastv_runtime.strict_json import read_model

RECEIPT_VERSION = 1
RECEIPT = "receipt.json"
ENGINES = "engines"
"""Folder of a bundle, with one folder a device. The manifest does not list it."""


RecordedProfile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Shapes at least, tuned for and at most of each input; `length` has values instead."""


class SelfTest(StrictModel):
    """An engine on the bundle's golden vectors: the worst of all cases and outputs."""

    # An engine may compute NaN, which JSON has no number for.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    passed: bool
    difference: float
    """Relative error, as `selftest.difference` has it."""
    limit: float
    """What rounding explains of it."""
    cosine: float
    """Of an output and what transformers computed."""
    max_error: float
    """Largest absolute error of a value."""


class EngineRecord(StrictModel):
    """One engine. `file` is relative to the receipt."""

    file: str
    sha256: str
    size: int
    onnx: dict[str, str]
    """sha256 of the graph and its weights, by their path in the bundle."""
    profiles: tuple[RecordedProfile, ...]
    seconds: float
    self_test: SelfTest | None
    """None: not tested, for want of a GPU or of golden vectors, or as the user wished."""
    failure: str | None = None
    """Why the engine is kept aside and not used; None for one that may be."""


class Flags(StrictModel):
    """What the builder was told."""

    strongly_typed: bool = True
    version_compatible: bool = False
    workspace: int | None
    """Bytes; None is TensorRT's own limit."""


class BuiltFor(StrictModel):
    """The device, as it was when the engines were built."""

    capabilities: tuple[str, ...]
    gpu: str | None
    """None where no GPU was at hand."""
    multiprocessors: int | None
    machine: str
    """Processor architecture and operating system."""


class Receipt(StrictModel):
    """`engines/DEVICE/receipt.json`."""

    receipt_version: int
    backend: PythonModule
    tensorrt: str
    """Version of the TensorRT that built the engines; they run on no other."""
    fastv_edge: str
    device: BuiltFor
    flags: Flags
    engines: dict[str, EngineRecord]
    """By graph."""

    def usable(self) -> dict[str, EngineRecord]:
        """Engines that did not fail."""
        return {name: record for name, record in self.engines.items() if record.failure is None}


def onnx_digests(manifest: Manifest, name: str) -> dict[str, str]:
    """sha256 of a graph and its weights, as the manifest has them."""
    file = manifest.graphs[name].file
    return {path: manifest.files[path].sha256 for path in (file, f"{file}.data") if path in manifest.files}


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt in a device's folder; None if there is none. UserError for one that cannot be read."""
    file = folder / RECEIPT
    if not file.is_file():
        return None
    # What a self-test computed may be NaN, which stands in a text.
    receipt = read_model(file, Receipt, f"remove {folder} and run fastv-build again", strict=False)
    if receipt.receipt_version != RECEIPT_VERSION:
        raise UserError(
            f"{file}: receipt version {receipt.receipt_version} is not this program's {RECEIPT_VERSION}: "
            f"remove {folder} and run fastv-build again"
        )
    for record in receipt.engines.values():
        if Path(record.file).name != record.file:
            raise UserError(f"{file}: {record.file} lies outside {folder}: remove {folder} and run fastv-build again")
    return receipt


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Replace the receipt in a device's folder, in one step."""
    write_atomically(folder / RECEIPT, receipt.model_dump_json(indent=2) + "\n")
