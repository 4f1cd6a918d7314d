"""Which TensorRT is here, and what it can do. TensorRT 10.3 to 11 and TensorRT-RTX share one API and two names."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from dataclasses import dataclass
from typing import Any, Literal

from fastv_runtime.config.bundle import GraphSpec
from fastv_runtime.errors import UserError, install, missing_extra

PythonModule = Literal["tensorrt", "tensorrt_rtx"]
"""Name of the Python module."""

BuildTarget = Literal["trt", "trt-rtx"]
BACKENDS: dict[BuildTarget, PythonModule] = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}

PACKAGES: dict[PythonModule, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "trt"),
    "tensorrt_rtx": ("tensorrt-rtx", "rtx"),
}
"""Distribution and our extra of each."""

LAYERS = ("ATTENTION_INPUT", "KV_CACHE_UPDATE")
"""Layers that graphs of the dialect `trt` become."""


@dataclass(frozen=True)
class TensorRt:
    """An imported TensorRT."""

    backend: PythonModule
    version: str
    module: Any

    @property
    def title(self) -> str:
        """What it calls itself."""
        return f"{'TensorRT-RTX' if self.backend == 'tensorrt_rtx' else 'TensorRT'} {self.version}"

    @property
    def is_rtx(self) -> bool:
        return self.backend == "tensorrt_rtx"

    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that it builds for without such a GPU: TensorRT-RTX's list, none of TensorRT's."""
        if not self.is_rtx:
            return ()
        names = [name for name in self.module.ComputeCapability.__members__ if name.startswith("SM")]
        return tuple(sorted(names, key=lambda name: int(name[2:])))

    def portable_capabilities(self) -> tuple[str, ...]:
        """Ampere and later: what one engine of TensorRT-RTX serves without loss, by its documentation."""
        return tuple(name for name in self.capabilities() if int(name[2:]) >= 80)

    def require(self, name: str, spec: GraphSpec) -> None:
        """UserError unless this TensorRT can build a graph of a bundle."""
        require_dialect(name, spec)
        if not self.is_rtx and spec.tensorrt is not None and _numbers(self.version) < _numbers(spec.tensorrt):
            raise UserError(
                f"graph {name} needs TensorRT {spec.tensorrt} or newer and this is {self.version}: "
                "export again with `export.target` trt-legacy"
            )
        missing = [layer for layer in LAYERS if layer not in self.module.LayerType.__members__]
        if spec.dialect == "trt" and missing:
            # TensorRT-RTX counts its versions differently, so the layers themselves are asked for.
            raise UserError(
                f"graph {name} needs the layer {missing[0]}, which {self.title} lacks: upgrade it, "
                "or export again with `export.target` trt-legacy"
            )


def require_dialect(name: str, spec: GraphSpec) -> None:
    """UserError unless some TensorRT can build a graph of a bundle; asks nothing of this machine."""
    if spec.dialect not in ("trt", "trt-legacy"):
        raise UserError(
            f"graph {name} is of the dialect {spec.dialect}, which TensorRT cannot build: "
            "export again with `export.target` trt or trt-rtx"
        )


def installed(backend: PythonModule) -> bool:
    """Whether there is such a module; it is not imported."""
    return importlib.util.find_spec(backend) is not None


def choose_backend(target: BuildTarget | None, rtx_wanted: bool = False) -> PythonModule:
    """The backend of a target, by default the one that is installed, TensorRT before TensorRT-RTX.

    rtx_wanted: something was asked for that only TensorRT-RTX has. UserError if there is none.
    """
    wanted: tuple[PythonModule, ...] = ("tensorrt_rtx",) if rtx_wanted else ("tensorrt", "tensorrt_rtx")
    if target is not None:
        wanted = (BACKENDS[target],)
    found = [backend for backend in wanted if installed(backend)]
    if found:
        return found[0]
    if len(wanted) == 1:
        raise missing_extra(*PACKAGES[wanted[0]])
    raise UserError(
        f"no TensorRT is installed: {install('trt')}, or with rtx instead of trt for a desktop GPU; "
        "on a Jetson it comes with JetPack, and a venv sees it when made with --system-site-packages"
    )


def load_tensorrt(backend: PythonModule) -> TensorRt:
    """Import a TensorRT; UserError if it is not there or does not load."""
    if not installed(backend):
        raise missing_extra(*PACKAGES[backend])
    try:
        module = importlib.import_module(backend)
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(f"{backend} is installed but does not load: {error}: install it again") from None
    return TensorRt(backend, module.__version__, module)


def polygraphy(backend: PythonModule) -> Any:
    """`polygraphy.backend.trt`, driving one of the two modules.

    Polygraphy asks once, while it is imported, which one. It documents the variable POLYGRAPHY_USE_TENSORRT_RTX for
    that; here the setting that the variable initialises is set, so that the process's environment stays as it is.
    One process therefore builds with one of the two.
    """
    try:
        from polygraphy import config
        from polygraphy.logger import G_LOGGER
    except ImportError:
        raise missing_extra("polygraphy", PACKAGES[backend][1]) from None
    if not G_LOGGER.use_python_logging_system:
        # It would print to stdout, which is ours. What it says in an error is collected where that is raised.
        G_LOGGER.use_python_logging_system = True
        G_LOGGER.colors = G_LOGGER.letter = False
        logger = logging.getLogger("Polygraphy")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    rtx = backend == "tensorrt_rtx"
    if "polygraphy.backend.trt" in sys.modules and rtx != config.USE_TENSORRT_RTX:
        raise RuntimeError("Polygraphy drives the other TensorRT in this process already")
    config.USE_TENSORRT_RTX = rtx
    return importlib.import_module("polygraphy.backend.trt")


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
