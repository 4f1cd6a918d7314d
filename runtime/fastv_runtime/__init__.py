"""The device side of FastV Edge: load a bundle, answer questions about pictures. Never imports torch."""

from fastv_runtime.bundle import Bundle
from fastv_runtime.errors import UserError
from fastv_runtime.pipeline import Answer, Pipeline
from fastv_runtime.sampling import Sampling

__all__ = ["Answer", "Bundle", "Pipeline", "Sampling", "UserError"]
