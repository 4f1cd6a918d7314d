"""The host side of FastV Edge: from a transformers checkpoint to a bundle of ONNX graphs.

The public API is here, imported when it is first used: torch takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import fastv_runtime  # noqa: F401  before ONNX Runtime is imported, whose telemetry it switches off

if TYPE_CHECKING:
    from fastv_export.api import export
    from fastv_export.progress import Progress
    from fastv_export.verify.whole import VerificationError
    from fastv_runtime.errors import UserError
    from fastv_runtime.versions import __version__

__all__ = ["Progress", "UserError", "VerificationError", "__version__", "export"]

_MODULES = {
    "Progress": "fastv_export.progress",
    "UserError": "fastv_runtime.errors",
    "VerificationError": "fastv_export.verify.whole",
    "__version__": "fastv_runtime.versions",
    "export": "fastv_export.api",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
