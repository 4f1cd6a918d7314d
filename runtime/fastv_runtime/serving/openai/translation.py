"""From a request as OpenAI's API has it to a question and settings of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastv_runtime.config.bundle import Manifest
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.messages import read_messages
from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.calls.settings import Settings, read_settings
from fastv_runtime.generation.grammar import Grammar
from fastv_runtime.preprocessing.addresses import SCHEMES, scheme_of
from fastv_runtime.serving.errors import ApiError
from fastv_runtime.serving.openai.failures import as_api_error
from fastv_runtime.serving.openai.media import Media
from fastv_runtime.serving.openai.request import (
    ChatMessage,
    ChatRequest,
    ImageUrl,
    InputImage,
    ObjectFormat,
    RegexFormat,
    SchemaFormat,
    Text,
    VideoUrl,
)
from fastv_runtime.serving.settings import ServeSettings

CHARACTERS_PER_TOKEN = 64
"""More than any text has on average: longer ones are refused before they are tokenized."""


class Translator:
    """Translates for one bundle. Opens addresses, decodes videos and compiles grammars: not for an event loop."""

    def __init__(self, settings: ServeSettings, manifest: Manifest):
        self._settings = settings
        self._manifest = manifest
        self._media = Media(settings, manifest.video)

    def __call__(self, request: ChatRequest) -> tuple[GenerationInput, Settings]:
        """Raises ApiError for what cannot be used."""
        self._check(request.messages)
        try:
            settings = self._settings_of(request)
            conversation = read_messages(
                [
                    {"role": _role(message), "content": self._parts(message, f"messages.{index}")}
                    for index, message in enumerate(request.messages)
                ],
                (),
                (),
            )
        except UserError as error:
            raise as_api_error(error, request) from None
        return GenerationInput(conversation.images, conversation.videos, turns=conversation.turns), settings

    def _check(self, messages: list[ChatMessage]) -> None:
        parts = [part for message in messages for part in message.content]
        images = sum(isinstance(part, ImageUrl | InputImage) for part in parts)
        videos = sum(isinstance(part, VideoUrl) for part in parts)
        for count, most, kind in (
            (images, self._settings.max_images, "images"),
            (videos, self._settings.max_videos, "videos"),
        ):
            if count > most:
                raise ApiError(400, f"{count} {kind}: this server takes {most} a request", param="messages")
        length = sum(len(part.text) for part in parts if isinstance(part, Text))
        most = CHARACTERS_PER_TOKEN * self._manifest.plan.max_text
        if length > most:
            raise ApiError(
                400,
                f"{length:,} characters of text: this bundle supports {self._manifest.plan.max_text:,} tokens",
                param="messages",
                code="context_length_exceeded",
            )

    def _parts(self, message: ChatMessage, where: str) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for index, part in enumerate(message.content):
            place = f"{where}.content.{index}"
            if isinstance(part, Text):
                parts.append({"type": "text", "text": part.text})
            elif isinstance(part, VideoUrl):
                parts.append({"type": "video", "video": self._media.video(part.video_url.url, place)})
            else:
                parts.append({"type": "image", "image": self._media.image(part.image_url.url, place)})
        return parts

    def _settings_of(self, request: ChatRequest) -> Settings:
        # Greedy decoding keeps the promise of a seed, and of a nucleus, where temperature 0 was asked for.
        greedy = not request.temperature
        top_p, seed = request.top_p, request.seed
        if greedy and (request.temperature is not None or top_p == 1):
            top_p = None
        if greedy and top_p is not None:
            raise ApiError(
                400,
                "top_p: changes nothing without temperature, whose default is 0 here (greedy): give both",
                param="top_p",
            )
        own = request.keep is None and request.share is None and request.cuts is None
        return read_settings(
            self._manifest,
            max_new_tokens=request.limit,
            temperature=request.temperature,
            top_p=top_p,
            seed=None if greedy or seed is None else seed % 2**64,
            keep=self._settings.keep if own else request.keep,
            share=request.share,
            cuts=request.cuts,
            stop=tuple(request.stop) or None,
            grammar=_grammar(request),
        )


def asks_network(request: ChatRequest) -> bool:
    """Whether an address of a request is on another machine."""
    return any(scheme_of(address) in SCHEMES for message in request.messages for address in addresses(message))


def addresses(message: ChatMessage) -> Iterator[str]:
    for part in message.content:
        if isinstance(part, VideoUrl):
            yield part.video_url.url
        elif not isinstance(part, Text):
            yield part.image_url.url


def _role(message: ChatMessage) -> str:
    return "system" if message.role == "developer" else message.role


def _grammar(request: ChatRequest) -> Grammar | None:
    asked = request.response_format
    if isinstance(asked, ObjectFormat):
        return Grammar.json_object()
    if isinstance(asked, SchemaFormat):
        return Grammar.json_schema(asked.json_schema.schema_)
    return Grammar.regex(asked.regex) if isinstance(asked, RegexFormat) else None
