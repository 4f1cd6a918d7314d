"""How a checkpoint wants its tokens chosen, beside its stop tokens: what `generation_config.json` says and we heed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastv_runtime.config.base import LARGEST, Count, Size, StrictModel

TokenId = Annotated[int, Field(ge=0, le=LARGEST)]


class GenerationDefaults(StrictModel):
    """In the terms of transformers' `GenerationConfig`. The defaults change nothing."""

    repetition_penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    no_repeat_ngram_size: Count = 0
    bad_words_ids: tuple[Annotated[tuple[TokenId, ...], Field(min_length=1)], ...] = ()
    suppress_tokens: tuple[TokenId, ...] = ()
    begin_suppress_tokens: tuple[TokenId, ...] = ()
    min_new_tokens: Count = 0
    max_new_tokens: Size | None = None
    """How long an answer may be unless the caller says; None means what the bundle's plan supports."""
