"""The engines of a bundle for a device: whole, of this bundle, of this TensorRT, unchanged since they were built."""

from __future__ import annotations

from pathlib import Path

from fastv_runtime.backends.tensorrt.device import Device
from fastv_runtime.backends.tensorrt.module import PythonModule
from fastv_runtime.backends.tensorrt.receipt import ENGINES, EngineRecord, Receipt, onnx_digests, read_receipt
from fastv_runtime.config.bundle import Bundle, Manifest, sha256
from fastv_runtime.errors import UserError


def find_engines(bundle: Bundle, device: Device) -> dict[str, Path]:
    """The engine of every graph, each one hashed: a serialized engine holds code, so none is loaded unchecked.

    Raises UserError when none are built, or those that are do not fit the bundle, the device or this TensorRT, failed
    their self-test, or were changed.
    """
    root = bundle.path / ENGINES
    found = _receipts(bundle)
    if not found:
        raise UserError(f"{bundle.path}: no engines are built: run fastv-build {bundle.path}")
    fitting = [name for name, receipt in found.items() if _runs_on(receipt, device)]
    if not fitting:
        raise UserError(
            f"{bundle.path}: engines are built for {', '.join(found)} and this is {device.name}: "
            f"run fastv-build {bundle.path}"
        )
    name = device.name if device.name in fitting else fitting[0]
    folder, receipt = root / name, found[name]
    again = f"run fastv-build {bundle.path}"
    if receipt.tensorrt != device.tensorrt.version:
        raise UserError(f"{folder}: built with {receipt.tensorrt} and this is {device.tensorrt.title}: {again}")
    for graph in bundle.manifest.graphs:
        record = receipt.engines.get(graph)
        if record is None:
            raise UserError(f"{folder}: no engine for the graph {graph}: {again}")
        if record.failure is not None:
            raise UserError(f"{folder / record.file}: {record.failure}; use `backend` ort, or {again}")
        if is_stale(bundle.manifest, graph, record):
            raise UserError(f"{folder}: the engine of {graph} is of another export of this bundle: {again}")
        check_engine(folder / record.file, record, again)
    return {graph: folder / receipt.engines[graph].file for graph in bundle.manifest.graphs}


def built_with(bundle: Bundle) -> PythonModule | None:
    """The TensorRT whose engines a bundle has; None if it has none, or some of each."""
    found = {receipt.backend for receipt in _receipts(bundle).values()}
    return found.pop() if len(found) == 1 else None


def _receipts(bundle: Bundle) -> dict[str, Receipt]:
    folders = sorted((bundle.path / ENGINES).glob("*/"))
    return {folder.name: receipt for folder in folders if (receipt := read_receipt(folder))}


def is_stale(manifest: Manifest, graph: str, record: EngineRecord) -> bool:
    """Whether an engine was built from another graph than the bundle's."""
    return record.onnx != onnx_digests(manifest, graph)


def check_engine(path: Path, record: EngineRecord, again: str) -> None:
    """UserError unless the file is the one that was built. `again`: what to do about it."""
    if not path.is_file():
        raise UserError(f"{path}: is missing: {again}")
    if path.stat().st_size != record.size or sha256(path) != record.sha256:
        raise UserError(f"{path}: its sha256 is not the receipt's, the file was changed or damaged: {again}")


def _runs_on(receipt: Receipt, device: Device) -> bool:
    built = receipt.device
    if receipt.backend != device.tensorrt.backend or not set(device.capabilities) <= set(built.capabilities):
        return False
    if device.tensorrt.is_rtx:
        return True
    gpu = device.gpu
    return gpu is not None and (gpu.name, gpu.multiprocessors) == (built.gpu, built.multiprocessors)
