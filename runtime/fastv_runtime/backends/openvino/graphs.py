"""A bundle's graphs on OpenVINO, on one device."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fastv_runtime.backends.base import BackendOptions
from fastv_runtime.backends.openvino.engine import OpenVinoEngine
from fastv_runtime.backends.openvino.processor import choose_compute, gpu_compute, rounding_group
from fastv_runtime.backends.openvino.states import ROUNDING_GROUP
from fastv_runtime.backends.threads import default_threads
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.plan import Precision
from fastv_runtime.errors import UserError, missing_extra
from fastv_runtime.files import cannot_write
from fastv_runtime.memory.buffers import HostMemory, Memory
from fastv_runtime.telemetry import without_openvinos

DIALECT = "openvino"
COMPUTES: dict[str, Precision] = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""What kernels may be told to compute in, by OpenVINO's names."""


class OpenVinoBackend:
    """options: as the registry's entry has them; `compute` None is `processor.choose_compute`. Raises UserError."""

    def __init__(self, bundle: Bundle, options: BackendOptions):
        core = load_core()
        manifest = bundle.manifest
        for name, spec in manifest.graphs.items():
            if spec.dialect != DIALECT:
                raise UserError(
                    f"{bundle.path}: graph {name} is of the dialect {spec.dialect}, and OpenVINO runs those of "
                    f"{DIALECT}: export with `export.target` openvino, or leave `backend` out"
                )
        device = _device(core, options.device)
        if device == "CPU":
            compute, self.notes = choose_compute(core, options.compute, manifest.plan, options.threads)
        else:
            compute, self.notes = gpu_compute(options.compute, manifest.plan), []
        self.name = f"openvino {device.lower()} {compute}"
        self._engines: dict[str, OpenVinoEngine] = {}
        for name, spec in manifest.graphs.items():
            path = bundle.file(spec.file)
            # What only chooses and copies rows must not round them, nor what it chooses by.
            whole = name in manifest.plan.selects or name == "pack"
            settings = _settings(device, "f32" if whole else compute, options.threads)
            settings |= _kept(bundle, spec.file, options.model_cache, settings)
            try:
                compiled = core.compile_model(path, device, settings)
            except RuntimeError as error:
                detail = " ".join(str(error).split())
                raise UserError(f"{path}: OpenVINO cannot compile this graph: {detail}") from error
            self._engines[name] = OpenVinoEngine(path, compiled, spec, None if whole else COMPUTES[compute])
            self._engines[name].check()

    def engine(self, graph: str) -> OpenVinoEngine:
        return self._engines[graph]

    def allocate(self, nbytes: int) -> Memory:
        return HostMemory.allocate(nbytes)

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def synchronize(self) -> None:
        """A run ends before it returns."""


def _device(core: Any, asked: str) -> str:
    """OpenVINO's name of it; of `auto` a GPU where there is one. Raises UserError for one that is not there."""
    there = core.available_devices
    if asked == "auto":
        return "GPU" if any(each.split(".")[0] == "GPU" for each in there) else "CPU"
    device = asked.upper()
    if not any(each.split(".")[0] == device for each in there):
        found = ", ".join(each.lower() for each in there)
        raise UserError(f"`device` {asked}: OpenVINO finds none here: it has {found}")
    return device


def _settings(device: str, compute: str, threads: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": compute}
    if device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = threads or default_threads()
        settings["KV_CACHE_PRECISION"] = compute  # of its own accord it keeps keys and values in eight bits
        group = rounding_group(compute, threads)
        if group is not None:
            settings[ROUNDING_GROUP] = group
    return settings


def _kept(bundle: Bundle, file: str, kept: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that keep a compiled graph in a directory named after what its two files hold and how it is compiled.

    After `settings`, since OpenVINO 2026.4 takes a graph that was compiled for f32 where bf16 is asked for. With its
    weights: without them (OPTIMIZE_SIZE) it reads back other shapes. Raises UserError where nothing can be written.
    """
    if kept is None:
        return {}
    weights = str(Path(file).with_suffix(".bin"))
    how = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = kept / "-".join([*(bundle.manifest.files[each].sha256[:16] for each in (file, weights)), how[:16]])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:  # OpenVINO would end the process, or keep nothing and say nothing
        raise cannot_write(folder, error) from error
    return {"CACHE_DIR": str(folder), "CACHE_MODE": "OPTIMIZE_SPEED"}


def load_core() -> Any:
    """The process's one Core, which is never given up. Raises UserError where OpenVINO is not installed.

    On a processor with AMX each Core of OpenVINO 2026.4 gives the thread that makes it another stack for signals, and
    frees it with itself: of two the older one's stays in use, and the next signal (Ctrl-C) ends the process.
    """
    return _core(load_openvino())


@cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


def load_openvino() -> Any:
    """The module. Raises UserError where it is not installed."""
    try:
        with without_openvinos():
            import openvino
    except ImportError:
        raise missing_extra("openvino", "openvino") from None
    return openvino
