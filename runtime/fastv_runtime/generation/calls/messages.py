"""Conversations as chat APIs have them: messages of roles, whose content is text, images and videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.arguments import VideoInput, check_unicode, image_list, video_list
from fastv_runtime.preprocessing.images.loading import ImageInput


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImagePart(_Strict):
    """`image`: anything that `images` takes; None for the next of `images`."""

    type: Literal["image"]
    image: Any = None


class VideoPart(_Strict):
    """`video`: anything that `videos` takes; None for the next of `videos`."""

    type: Literal["video"]
    video: Any = None


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(_Strict):
    role: Literal["system", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts)]


_MESSAGES = TypeAdapter(list[Message])


@dataclass(frozen=True)
class Conversation:
    """Turns in the form that chat templates read, and what is seen in them, each in the turns' order.

    A turn is {"role": ..., "content": parts}; a part is {"type": "text", "text": ...}, {"type": "image"} or
    {"type": "video"}.
    """

    turns: list[dict[str, Any]]
    images: list[ImageInput]
    videos: list[VideoInput]


def read_messages(messages: Any, images: Sequence[ImageInput], videos: Sequence[VideoInput]) -> Conversation:
    """The conversation that `messages` are; `images` and `videos` fill the parts that hold none, in their order.

    Raises UserError, which says of which message, for anything else than messages that end with the user's.
    """
    try:
        read = _MESSAGES.validate_python(list(messages) if isinstance(messages, tuple) else messages)
    except ValidationError as error:
        raise UserError(_said(error)) from None
    if not read or read[-1].role != "user":
        raise UserError("messages: the last one must be the user's: it is what the model answers")
    waiting: dict[str, list[Any]] = {"image": list(images), "video": list(videos)}
    seen: dict[str, list[Any]] = {"image": [], "video": []}
    turns = []
    for index, message in enumerate(read):
        where = f"messages[{index}]"
        parts: list[dict[str, str]] = []
        for part in message.content:
            if isinstance(part, TextPart):
                check_unicode(f"the text of {where}", part.text)
                parts.append({"type": "text", "text": part.text})
                continue
            given = part.image if isinstance(part, ImagePart) else part.video
            if given is None:
                if not waiting[part.type]:
                    raise UserError(f"{where}: no {part.type} for it: put one into the part, or give one more")
                given = waiting[part.type].pop(0)
            count = len(image_list(given) if part.type == "image" else video_list(given))
            if count != 1:
                raise UserError(f"{where}: {count} {part.type}s in one part: write a part for each")
            seen[part.type].append(given)
            parts.append({"type": part.type})
        silent = all(part["type"] == "text" and not part["text"].strip() for part in parts)
        if silent and message.role != "assistant":  # a model may have said nothing
            raise UserError(f"{where} is empty: write something, or leave it out")
        turns.append({"role": message.role, "content": parts})
    for kind, left in waiting.items():
        if left:
            raise UserError(
                f'messages have no place for {len(left)} of the {kind}s given: write {{"type": "{kind}"}} into the '
                "content, where each belongs"
            )
    return Conversation(turns, seen["image"], seen["video"])


def _said(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    others = error.error_count() - 1
    return f"messages{place}: {first['msg'].lower()}" + (f" (and {others} more)" if others else "")
