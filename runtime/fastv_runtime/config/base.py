"""What every part of the manifest is made of: the strict base model, element types, tensors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

DType = Literal["float32", "float16", "bfloat16", "int64", "int32", "bool"]


class StrictModel(BaseModel):
    """A frozen part of `bundle.json` that admits no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(StrictModel):
    """One graph input or output. A string in `shape` is a dynamic axis, by its symbol (S, M, ...)."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
