"""TensorRT as a backend of the registry. What needs TensorRT or a GPU is imported when a bundle is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_runtime.backends.base import Backend, BackendEntry, BackendOptions

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Bundle


def _open(bundle: Bundle, options: BackendOptions) -> Backend:
    """The engines that were built for the GPU at hand; every one is checked against its receipt before it is loaded."""
    from fastv_runtime.backends.cuda import Cuda

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


BACKEND = BackendEntry(
    name="trt",
    summary="TensorRT, with the engines that fastv-build made",
    devices=("cuda",),
    dialects=("trt", "trt-legacy"),
    extras=(),  # TensorRT's age is checked where it is loaded
    open=_open,
)
