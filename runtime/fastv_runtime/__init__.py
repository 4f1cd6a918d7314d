"""The device side of FastV Edge: load a bundle, answer questions about images. Never imports torch.

The public API is here, imported when it is first used: commands that only parse wait for none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fastv_runtime.telemetry import switch_off

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Bundle
    from fastv_runtime.errors import PipelineBusyError, PipelineEndedError, UserError
    from fastv_runtime.generation.calls.answer import Answer
    from fastv_runtime.generation.calls.chat import ChatSession
    from fastv_runtime.generation.calls.streaming import Generation
    from fastv_runtime.generation.grammar import Grammar
    from fastv_runtime.generation.pipeline import Pipeline
    from fastv_runtime.generation.sampling import Sampling
    from fastv_runtime.versions import __version__

__all__ = [
    "Answer",
    "Bundle",
    "ChatSession",
    "Generation",
    "Grammar",
    "Pipeline",
    "PipelineBusyError",
    "PipelineEndedError",
    "Sampling",
    "UserError",
    "__version__",
]

switch_off()

_MODULES = {
    "Answer": "fastv_runtime.generation.calls.answer",
    "Bundle": "fastv_runtime.config.bundle",
    "ChatSession": "fastv_runtime.generation.calls.chat",
    "Generation": "fastv_runtime.generation.calls.streaming",
    "Grammar": "fastv_runtime.generation.grammar",
    "Pipeline": "fastv_runtime.generation.pipeline",
    "PipelineBusyError": "fastv_runtime.errors",
    "PipelineEndedError": "fastv_runtime.errors",
    "Sampling": "fastv_runtime.generation.sampling",
    "UserError": "fastv_runtime.errors",
    "__version__": "fastv_runtime.versions",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
