"""Engines right after an export, where a builder is at hand; a note that says what to do where none is."""

from __future__ import annotations

from pathlib import Path

from fastv_export.progress import Progress
from fastv_runtime.backends.tensorrt.device import Device, choose_device, computes
from fastv_runtime.backends.tensorrt.gpu import find_gpu
from fastv_runtime.backends.tensorrt.module import BACKENDS, installed, load_tensorrt
from fastv_runtime.config.bundle import Bundle, Manifest
from fastv_runtime.config.plan import Weights
from fastv_runtime.errors import UserError
from fastv_runtime.tensorrt_build.builder import build_engines
from fastv_runtime.tensorrt_build.check import tensorrt_loader


def build_after_export(output: Path, manifest: Manifest, target: str, progress: Progress) -> None:
    """Build the engines of a bundle that was just written; it stays whatever becomes of them.

    TensorRT builds for the GPU at hand. TensorRT-RTX needs none: without a GPU that it knows, one engine is built for
    every one since Ampere that has the weights' format. Nothing to do for a target that has no engines.
    """
    if not target.startswith("trt"):
        return
    try:
        device = _device(target, manifest.plan.weights)
        if device is None:
            progress.note(
                f"note: no builder is at hand: run fastv-build {output} on the device, with TensorRT installed"
            )
            return
        load = None if device.gpu is None else tensorrt_loader(device.tensorrt)
        with progress.step(f"build engines for {device.name}"):
            outcome = build_engines(Bundle(output, manifest), device, load=load)
    except UserError as error:
        progress.note(f"note: no engines were built: {error}")
        return
    tested = "not tested, for want of a GPU" if load is None else "compared with the golden vectors"
    progress.note(f"engines: {outcome.folder}, {tested}")
    for name, failure in outcome.failed.items():
        progress.note(f"warning: {name}: {failure}; kept aside as {name}.engine.failed")


def _device(target: str, weights: Weights | None) -> Device | None:
    """What to build for; None where there is nothing to build with. Only GPUs that have the weights' format."""
    backend = BACKENDS["trt-rtx" if target == "trt-rtx" else "trt"]
    if not installed(backend):
        return None
    gpu = find_gpu()
    if gpu is None and backend == "tensorrt":
        return None
    tensorrt = load_tensorrt(backend)
    if tensorrt.is_rtx and (gpu is None or gpu.capability not in tensorrt.capabilities()):
        portable = [name for name in tensorrt.portable_capabilities() if computes(name, weights)]
        return choose_device(tensorrt, gpu, portable)
    return choose_device(tensorrt, gpu)
