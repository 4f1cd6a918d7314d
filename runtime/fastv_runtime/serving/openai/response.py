"""What a chat completion answers, as OpenAI's API has it, with the extension `fastv`."""

from __future__ import annotations

import base64
import io
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel

from fastv_runtime.generation.calls.answer import Answer, AnswerCut
from fastv_runtime.generation.kept_image import numbered
from fastv_runtime.preprocessing import View, Visual

DEADLINE = "deadline"
"""A reason of ours to finish, which OpenAI's clients do not know."""


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    """`visual_tokens` of the prompt, and how many of them are left after the last cut (`kept_tokens`): extensions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    visual_tokens: int
    kept_tokens: int


class ShownView(BaseModel):
    """One image as the model sees it."""

    image: str
    """A data: address of a PNG."""
    rows: int
    columns: int
    tokens: list[int]
    """Of rows x columns patches, row by row, the visual token's number in the whole prompt; -1 where there is none."""


class FirstFacts(BaseModel):
    """The object `fastv` at the beginning of a response."""

    prompt_tokens: int
    visual_tokens: int
    reused_tokens: int
    cuts: list[AnswerCut]
    notes: list[str]
    views: list[ShownView] | None = None


@dataclass
class Completion:
    """One response in the making: what of it is the same in every chunk of a stream."""

    model: str
    views: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    reused: int = 0

    def first(self, answer: Answer, shown: Sequence[Visual], reused: int) -> dict[str, Any]:
        """`fastv` of an answer that was begun. Encodes images where views were asked for: not for an event loop."""
        self.reused = reused
        facts = FirstFacts(
            prompt_tokens=answer.prompt_tokens,
            visual_tokens=answer.visual_tokens,
            reused_tokens=reused,
            cuts=answer.cuts,
            notes=list(answer.notes),
            views=[_view(each) for each in numbered(shown)] if self.views else None,
        )
        return facts.model_dump(exclude_none=True)

    def last(self, answer: Answer) -> dict[str, Any]:
        """`fastv` of a finished answer."""
        late = {"finish_reason": DEADLINE} if answer.finish_reason == DEADLINE else {}
        return {"timings_ms": {name: round(value, 3) for name, value in answer.timings_ms.items()}, **late}

    def usage(self, answer: Answer) -> dict[str, Any]:
        made = len(answer.token_ids)
        return Usage(
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=made,
            total_tokens=answer.prompt_tokens + made,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.reused),
            visual_tokens=answer.visual_tokens,
            kept_tokens=len(answer.kept_visual_tokens),
        ).model_dump()

    def whole(self, answer: Answer, first: dict[str, Any]) -> dict[str, Any]:
        """A `chat.completion`."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer)}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": self.usage(answer),
            "fastv": {**first, "notes": list(answer.notes), **self.last(answer)},
        }

    def chunk(
        self, delta: dict[str, str], *, finish: str | None = None, fastv: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A `chat.completion.chunk` with one choice."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        extension = {} if fastv is None else {"fastv": fastv}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **extension}

    def usage_chunk(self, answer: Answer) -> dict[str, Any]:
        """The chunk without a choice that ends a stream with `include_usage`."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage(answer)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "system_fingerprint": None}


def finish_reason(answer: Answer) -> Literal["stop", "length"]:
    """One that OpenAI's clients know: an answer that a deadline cut off is as short as one that a limit did."""
    return "stop" if answer.finish_reason == "stop" else "length"


def _view(view: View) -> ShownView:
    rows, columns = view.tokens.shape
    return ShownView(image=_png(view.image), rows=rows, columns=columns, tokens=view.tokens.ravel().tolist())


def _png(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
