"""OpenVINO as a backend of the registry. What runs graphs is imported when a bundle is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastv_runtime.backends.base import Backend, BackendEntry, BackendOptions

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Bundle


def _open(bundle: Bundle, options: BackendOptions) -> Backend:
    from fastv_runtime.backends.openvino.graphs import OpenVinoBackend

    return OpenVinoBackend(bundle, options)


BACKEND = BackendEntry(
    name="openvino",
    summary="OpenVINO",
    devices=("cpu", "gpu", "auto"),
    dialects=("openvino",),
    extras=("openvino",),
    open=_open,
    computes=("f32", "bf16", "f16"),
    caches_models=True,
)
