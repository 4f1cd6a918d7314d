"""All engines of a bundle for one device: what changed is built, tested, and recorded in the receipt."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastv_runtime.backends.tensorrt.device import Device, check_precision, check_weights
from fastv_runtime.backends.tensorrt.find import check_engine, is_stale
from fastv_runtime.backends.tensorrt.receipt import (
    ENGINES,
    RECEIPT_VERSION,
    BuiltFor,
    EngineRecord,
    Flags,
    Receipt,
    RecordedProfile,
    SelfTest,
    onnx_digests,
    read_receipt,
    write_receipt,
)
from fastv_runtime.claims import claimed, remove_partials
from fastv_runtime.config.bundle import Bundle, GraphSpec
from fastv_runtime.errors import UserError
from fastv_runtime.files import require_space, writing
from fastv_runtime.tensorrt_build.check import Load, self_test_engine
from fastv_runtime.tensorrt_build.network import BuilderSettings, Phase, compile_graph
from fastv_runtime.tensorrt_build.preflight import weight_bytes
from fastv_runtime.tensorrt_build.profiles import Profile, graph_profiles

TIMING_CACHE = "timing.cache"

BuildReport = Callable[[str, str], None]
"""Told a graph's name and what is being done with it."""

Compile = Callable[[Path, GraphSpec, list[Profile], Device, BuilderSettings, Phase], Any]
"""Makes the serialized engine of a graph; `network.compile_graph` does."""


@dataclass(frozen=True)
class BuildResult:
    """`folder` holds the engines; of the graphs, some were `built` and the others were there already."""

    folder: Path
    receipt: Receipt
    built: tuple[str, ...]

    @property
    def failed(self) -> dict[str, str]:
        """Why engines are kept aside, by graph."""
        return {name: record.failure for name, record in self.receipt.engines.items() if record.failure is not None}


def outdated(bundle: Bundle, device: Device, workspace: int | None) -> list[str]:
    """Graphs that have no engine for a device, or one that is not what would be built now."""
    return _Builder(bundle, device, workspace).outdated()


def build_engines(
    bundle: Bundle,
    device: Device,
    *,
    workspace: int | None = None,
    timing_cache: Path | None = None,
    load: Load | None = None,
    report: BuildReport = lambda graph, phase: None,
    compile: Compile = compile_graph,
) -> BuildResult:
    """Build what is missing or stale in `engines/DEVICE`; the rest stays.

    workspace: bytes. timing_cache: TensorRT's, by default in the device's folder. load: runs an engine for its
    self-test; None leaves engines untested. An engine that fails is kept aside as `*.failed` and is not used.
    Every engine and the receipt appear whole or not at all; an interrupted build goes on where it was.
    Raises UserError for a bundle that this TensorRT cannot build, BuildError where it fails to.
    """
    return _Builder(bundle, device, workspace).run(timing_cache, load, report, compile)


class _Builder:
    def __init__(self, bundle: Bundle, device: Device, workspace: int | None):
        manifest, tensorrt = bundle.manifest, device.tensorrt
        for name, spec in manifest.graphs.items():
            tensorrt.require(name, spec)
        check_precision(device, manifest.plan.precision)
        check_weights(device, manifest.plan.weights)
        self._bundle, self._device = bundle, device
        self._profiles = {
            name: graph_profiles(name, manifest, shared_weights=not tensorrt.is_rtx) for name in manifest.graphs
        }
        self._folder = bundle.path / ENGINES / device.name
        self._flags = Flags(workspace=workspace)
        self._old = self._comparable(read_receipt(self._folder))

    def outdated(self) -> list[str]:
        return [name for name in self._bundle.manifest.graphs if self._reusable(name) is None]

    def run(self, timing_cache: Path | None, load: Load | None, report: BuildReport, compile: Compile) -> BuildResult:
        self._make_folder()
        with claimed(self._folder):
            remove_partials(self._folder)
            self._old = self._comparable(read_receipt(self._folder))  # another build may have ended meanwhile
            return self._run(timing_cache, load, report, compile)

    def _run(self, timing_cache: Path | None, load: Load | None, report: BuildReport, compile: Compile) -> BuildResult:
        if timing_cache is None and not self._device.tensorrt.is_rtx:
            timing_cache = self._folder / TIMING_CACHE
        settings = BuilderSettings(self._flags.workspace, timing_cache)
        built = []
        # What still holds is written first, so that an interrupted build loses none of it.
        kept = {name: record for name in self._bundle.manifest.graphs if (record := self._reusable(name)) is not None}
        receipt = self._receipt(kept)
        manifest = self._bundle.manifest
        require_space(self._folder, sum(weight_bytes(manifest, name) for name in manifest.graphs if name not in kept))
        for name in self._bundle.manifest.graphs:
            record = kept.get(name)
            if record is None:
                record = self._build(name, settings, load, report, compile)
                built.append(name)
            elif load is not None and record.self_test is None:
                report(name, "self-test")
                record = self._settle(name, self._folder / record.file, record, load)
            receipt = self._receipt(receipt.engines | {name: record})
            write_receipt(self._folder, receipt)
        return BuildResult(self._folder, receipt, tuple(built))

    def _build(
        self, name: str, settings: BuilderSettings, load: Load | None, report: BuildReport, compile: Compile
    ) -> EngineRecord:
        spec, profiles = self._bundle.manifest.graphs[name], self._profiles[name]
        start = time.perf_counter()
        engine = compile(
            self._bundle.file(spec.file), spec, profiles, self._device, settings, lambda step: report(name, step)
        )
        seconds = time.perf_counter() - start
        report(name, "write")
        good = self._folder / f"{name}.engine"
        with writing(good):
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=f".{good.name}.partial-")
            os.close(handle)
        path = Path(temporary)
        try:
            data = memoryview(engine)
            with writing(good):
                path.write_bytes(data)
            record = EngineRecord(
                file=f"{name}.engine",
                sha256=hashlib.sha256(data).hexdigest(),
                size=data.nbytes,
                onnx=onnx_digests(self._bundle.manifest, name),
                profiles=_recorded(profiles),
                seconds=round(seconds, 3),
                self_test=None,
            )
            del data, engine
            path.chmod(0o644)
            report(name, "self-test")
            return self._settle(name, path, record, load)
        finally:
            path.unlink(missing_ok=True)

    def _settle(self, name: str, path: Path, record: EngineRecord, load: Load | None) -> EngineRecord:
        """Test the engine at `path`, and give it the name that it deserves."""
        good, bad = self._folder / f"{name}.engine", self._folder / f"{name}.engine.failed"
        result, failure = (None, None) if load is None else self._test(name, path, load)
        path.replace(good if failure is None else bad)
        (bad if failure is None else good).unlink(missing_ok=True)
        file = (good if failure is None else bad).name
        return record.model_copy(update={"file": file, "self_test": result, "failure": failure})

    def _test(self, name: str, path: Path, load: Load) -> tuple[SelfTest | None, str | None]:
        try:
            result = self_test_engine(self._bundle, name, path, load)
        except Exception as error:  # whatever an engine raises, it is of no use
            said = " ".join(str(error).split()).replace(str(path), f"{name}.engine")
            return None, f"failed its self-test: {said or type(error).__name__}"
        if result is None or result.passed:
            return result, None
        return result, (
            f"failed its self-test: differs from transformers by {result.difference:.2g} (limit {result.limit:.1g}), "
            f"cosine {result.cosine:.6f}, largest error {result.max_error:.2g}"
        )

    def _reusable(self, name: str) -> EngineRecord | None:
        """The engine that is there, if it is what would be built now."""
        record = self._old.engines.get(name) if self._old is not None else None
        if record is None or record.failure is not None or is_stale(self._bundle.manifest, name, record):
            return None
        if record.profiles != _recorded(self._profiles[name]):
            return None
        try:
            check_engine(self._folder / record.file, record, "")
        except UserError:
            return None
        return record

    def _comparable(self, receipt: Receipt | None) -> Receipt | None:
        """A receipt of the same TensorRT, device and flags; None for any other."""
        if receipt is None or receipt.model_copy(update={"engines": {}}) != self._receipt({}):
            return None
        return receipt

    def _receipt(self, engines: dict[str, EngineRecord]) -> Receipt:
        gpu = self._device.gpu
        return Receipt(
            receipt_version=RECEIPT_VERSION,
            backend=self._device.tensorrt.backend,
            tensorrt=self._device.tensorrt.version,
            fastv_edge=importlib.metadata.version("fastv-edge"),
            device=BuiltFor(
                capabilities=self._device.capabilities,
                gpu=None if gpu is None else gpu.name,
                multiprocessors=None if gpu is None else gpu.multiprocessors,
                machine=f"{platform.machine()} {platform.system()}",
            ),
            flags=self._flags,
            engines=engines,
        )

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self._folder}: {error.strerror}: engines are written into the bundle, so copy it somewhere writable"
            ) from None


def _recorded(profiles: list[Profile]) -> tuple[RecordedProfile, ...]:
    return tuple(
        {name: (bounds.min, bounds.opt, bounds.max) for name, bounds in profile.items()} for profile in profiles
    )
