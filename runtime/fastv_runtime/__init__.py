"""The device side of FastV Edge: load a bundle, answer questions about images. Never imports torch."""

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.errors import UserError
from fastv_runtime.generation.pipeline import Answer, Pipeline
from fastv_runtime.generation.sampling import Sampling
from fastv_runtime.versions import __version__

__all__ = ["Answer", "Bundle", "Pipeline", "Sampling", "UserError", "__version__"]
