"""The device side of FastV Edge: load a bundle, answer questions about images. Never imports torch.

The public API is here, imported when it is first used: commands that only parse wait for none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Bundle
    from fastv_runtime.errors import UserError
    from fastv_runtime.generation.pipeline import Answer, Pipeline
    from fastv_runtime.generation.sampling import Sampling
    from fastv_runtime.versions import __version__

__all__ = ["Answer", "Bundle", "Pipeline", "Sampling", "UserError", "__version__"]

_MODULES = {
    "Answer": "fastv_runtime.generation.pipeline",
    "Bundle": "fastv_runtime.config.bundle",
    "Pipeline": "fastv_runtime.generation.pipeline",
    "Sampling": "fastv_runtime.generation.sampling",
    "UserError": "fastv_runtime.errors",
    "__version__": "fastv_runtime.versions",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
