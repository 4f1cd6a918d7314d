"""ONNX Runtime as a backend of the registry. What runs graphs is imported when a bundle is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_runtime.backends.base import Backend, BackendEntry, BackendOptions

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Bundle


def _open(bundle: Bundle, options: BackendOptions) -> Backend:
    from fastv_runtime.backends.cuda import Cuda
    from fastv_runtime.backends.onnxruntime import OrtBackend

    files = {name: bundle.file(graph.file) for name, graph in bundle.manifest.graphs.items()}
    backend = OrtBackend(files, threads=options.threads, cuda=Cuda("gpu") if options.device == "cuda" else None)
    for name, graph in bundle.manifest.graphs.items():
        backend.engine(name).check(graph)
    return backend


BACKEND = BackendEntry(
    name="ort",
    summary="ONNX Runtime",
    devices=("cpu", "cuda"),
    dialects=("ort", "onnx"),
    extras=("cpu", "gpu"),
    open=_open,
)
