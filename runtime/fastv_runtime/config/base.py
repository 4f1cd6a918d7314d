"""What every part of the manifest is made of: the strict base model, element types, tensors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DType = Literal["float32", "float16", "bfloat16", "int64", "int32", "bool"]

LARGEST = 2**31 - 1
"""Nothing that is counted here is larger, and backends hold a tensor's axis in as many bits."""

MOST_PIXELS = 2**14
"""Pixels on a side of what a vision graph takes."""

MOST_TOKENS = 2**24
"""Tokens of one prompt: more than any decoder has positions for."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
"""A side, in pixels or in features, of which there are never more."""
TokenCount = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class StrictModel(BaseModel):
    """A frozen part of `bundle.json` that admits no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(StrictModel):
    """One graph input or output. A string in `shape` is a dynamic axis, by its symbol (S, M, ...)."""

    name: str = Field(min_length=1, max_length=1000)
    dtype: DType
    shape: tuple[Size | Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(max_length=16)
