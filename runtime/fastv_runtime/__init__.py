"""The device side of FastV Edge: load a bundle, answer questions about images. Never imports torch."""

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.errors import PipelineBusyError, PipelineEndedError, UserError
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.calls.streaming import Generation
from fastv_runtime.generation.pipeline import Pipeline
from fastv_runtime.generation.sampling import Sampling
from fastv_runtime.versions import __version__

__all__ = [
    "Answer",
    "Bundle",
    "Generation",
    "Pipeline",
    "PipelineBusyError",
    "PipelineEndedError",
    "Sampling",
    "UserError",
    "__version__",
]
