"""What config.pbtxt says of a bundle: parameters, which Triton hands to the model as texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastv_runtime import limits
from fastv_runtime.errors import UserError
from fastv_runtime.strict_json import said


class TritonParameters(BaseModel):
    """How a bundle is served. Paths are absolute, or relative to the model's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path
    backend: str | None = None
    threads: int | None = Field(default=None, ge=1, le=limits.THREADS)
    slots: int = Field(default=1, ge=1)
    """Conversations that are answered at the same time."""
    waiting: int = Field(default=16, ge=0)
    """Requests that wait for a slot; more are refused."""
    cache_mb: int = Field(default=256, ge=0)
    """MiB for conversations that have no slot."""
    drain_s: float = Field(default=30.0, ge=0)
    """Seconds for which running requests go on once the model is unloaded."""

    def as_texts(self) -> dict[str, str]:
        """As config.pbtxt has them; what is None is left out."""
        return {name: str(value) for name, value in self.model_dump().items() if value is not None}


def read_parameters(parameters: Mapping[str, Mapping[str, str]], folder: Path) -> TritonParameters:
    """Of a model's configuration. Names in capitals are the Python backend's own. Raises UserError.

    folder: the model's, for relative paths.
    """
    texts = {name: value.get("string_value", "") for name, value in parameters.items() if not name.isupper()}
    try:
        read = TritonParameters.model_validate(texts)
    except ValidationError as error:
        raise UserError(f"parameters of config.pbtxt: {said(error, texts)}") from None
    return read.model_copy(update={"bundle": folder / read.bundle})
