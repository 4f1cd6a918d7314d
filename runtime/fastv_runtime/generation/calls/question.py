"""What a pipeline is asked, whichever way it was said: a prompt, or messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastv_runtime.config.bundle import Manifest
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.arguments import VideoInput, check_text, whole_number
from fastv_runtime.generation.calls.messages import read_messages
from fastv_runtime.preprocessing.images.loading import ImageInput


@dataclass(frozen=True)
class GenerationInput:
    """Either a text, before which a system message may stand, or turns as `messages.Conversation` has them."""

    images: Sequence[ImageInput]
    videos: Sequence[VideoInput]
    text: str = ""
    system: str | None = None
    turns: Sequence[dict[str, Any]] | None = None


def read_question(
    prompt: Any, messages: Any, system: Any, images: Sequence[ImageInput], videos: Sequence[VideoInput]
) -> GenerationInput:
    """Raises UserError where there is neither prompt nor messages, or both, or what is no text."""
    if messages is None:
        if prompt is None:
            raise UserError("there is no question: give `prompt`, or messages")
        check_text("the prompt", prompt)
        if system is not None:
            check_text("`system`", system)
        return GenerationInput(images, videos, text=prompt, system=system)
    if prompt is not None or system is not None:
        both = "`prompt`" if prompt is not None else "`system`"
        raise UserError(f"{both}: write it as one of the messages, or leave the messages out")
    conversation = read_messages(messages, images, videos)
    return GenerationInput(conversation.images, conversation.videos, turns=conversation.turns)


def answer_limit(asked: int | None, manifest: Manifest) -> int:
    """Tokens of an answer at most; None means what the checkpoint says, as far as the plan goes. Raises UserError."""
    most, default = manifest.plan.max_new_tokens, manifest.generation.max_new_tokens
    if asked is None:
        return min(most, default or most)
    if whole_number("max_new_tokens", asked) < 1:
        raise UserError(f"`max_new_tokens` {asked}: must be 1 to {most}")
    if asked > most:
        raise UserError(
            f"`max_new_tokens` {asked}: this bundle supports 1 to {most}: export with a larger `export.max_new_tokens`"
        )
    return asked


def check_length(length: Any) -> None:
    """Raises UserError for what is no way to choose the pruned length."""
    if length not in (None, "fixed", "exact"):
        raise UserError(f"`length` {length!r}: must be 'fixed' or 'exact'")
