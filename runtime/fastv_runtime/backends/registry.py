"""Which backend runs a bundle, chosen by name, with one clear line where it cannot."""

from __future__ import annotations

from typing import Literal

from fastv_runtime.backends.base import Backend
from fastv_runtime.backends.cuda import Cuda
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.errors import UserError

BackendName = Literal["ort", "trt"]
DeviceName = Literal["cpu", "cuda"]

DEVICES: dict[BackendName, tuple[DeviceName, ...]] = {"ort": ("cpu", "cuda"), "trt": ("cuda",)}
"""What each backend runs on; the first is the default."""


def open_backend(
    bundle: Bundle, backend: BackendName, device: DeviceName | None = None, *, threads: int | None = None
) -> Backend:
    """The backend with the bundle's graphs loaded. `threads` is ONNX Runtime's. Raises UserError."""
    if backend not in DEVICES:
        raise UserError(f"`backend` {backend}: must be one of {', '.join(DEVICES)}")
    device = DEVICES[backend][0] if device is None else device
    if device not in DEVICES[backend]:
        raise UserError(f"`device` {device}: backend {backend} runs on {' or '.join(DEVICES[backend])}")
    if backend == "trt":
        return _tensorrt(bundle)
    from fastv_runtime.backends.onnxruntime import OrtBackend

    files = {name: bundle.file(graph.file) for name, graph in bundle.manifest.graphs.items()}
    return OrtBackend(files, threads=threads, cuda=Cuda("gpu") if device == "cuda" else None)


def _tensorrt(bundle: Bundle) -> Backend:
    """The engines that were built for the GPU at hand; every one is checked against its receipt before it is loaded."""
    cuda = Cuda("trt")
    from fastv_runtime.backends.tensorrt.device import local_device
    from fastv_runtime.backends.tensorrt.engine import TrtBackend
    from fastv_runtime.backends.tensorrt.find import built_with, find_engines
    from fastv_runtime.backends.tensorrt.gpu import find_gpu
    from fastv_runtime.backends.tensorrt.module import choose_backend, load_tensorrt

    tensorrt = load_tensorrt(built_with(bundle) or choose_backend(None))
    gpu = find_gpu()
    assert gpu is not None, "CUDA was started just now"
    return TrtBackend(tensorrt.module, cuda, find_engines(bundle, local_device(tensorrt, gpu)))
