"""A request for a chat completion, as OpenAI's API has it: read strictly, what cannot be honoured refused by name."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Tag, ValidationError, model_validator

from fastv_runtime import strict_json
from fastv_runtime.serving.errors import ApiError

IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
)
"""Fields of a request that change no answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "functions": ([],),
    "function_call": ("none",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
}
"""Fields that ask for what this server does not do, and the values with which they ask for nothing."""
OF_ASSISTANTS = ("refusal", "annotations", "audio", "function_call", "tool_calls")
"""Fields of an assistant's message as a response has them, empty or null here: clients send it back as it was."""

LONE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON writes half a character, and the halves of those that it writes in two."""


def _without_nulls(value: Any) -> Any:
    """OpenAI's optional fields may be null, which is as if they were not there."""
    return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        return _without_nulls(value)


class Text(_Part):
    type: Literal["text"]
    text: str


class ImageAddress(_Part):
    url: str = Field(min_length=1)
    detail: Literal["auto", "high", "original"] = "auto"
    """All of it, whichever of these: `keep` is what makes an image cheaper here."""


class VideoAddress(_Part):
    url: str = Field(min_length=1)


def _addressed(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class ImageUrl(_Part):
    type: Literal["image_url"]
    image_url: Annotated[ImageAddress, BeforeValidator(_addressed)]


class InputImage(_Part):
    """The part of OpenAI's Responses API, whose address stands in the part itself."""

    type: Literal["input_image"]
    image_url: Annotated[ImageAddress, BeforeValidator(_addressed)]
    detail: Literal["auto", "high", "original"] = "auto"


class VideoUrl(_Part):
    type: Literal["video_url"]
    video_url: Annotated[VideoAddress, BeforeValidator(_addressed)]


Part = Annotated[Text | ImageUrl | InputImage | VideoUrl, Field(discriminator="type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ChatMessage(_Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts), Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: Any) -> Any:
        value = _without_nulls(value)
        if isinstance(value, dict) and value.get("role") == "assistant":
            value = {name: each for name, each in value.items() if name not in OF_ASSISTANTS or each not in ([], {})}
            # An answer of nothing but a stop token is empty, and clients send it back.
            return {**value, "content": value.get("content") or ""}
        return value


class StreamOptions(_Part):
    include_usage: bool = False
    include_obfuscation: bool = False


class TextFormat(_Part):
    type: Literal["text"]


class ObjectFormat(_Part):
    type: Literal["json_object"]


class NamedSchema(_Part):
    name: str = "schema"
    description: str = ""
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool = True
    """Answers follow the schema whatever this says."""


class SchemaFormat(_Part):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(_Part):
    """An extension: the whole answer matches `regex`."""

    type: Literal["regex"]
    regex: str


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat | RegexFormat, Field(discriminator="type")]


class FastvOptions(_Part):
    """An extension: what the object `fastv` of the response shows."""

    views: bool = False
    """The images as the model sees them, and which visual token each patch is."""


def _in_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Number = float
"""Whole numbers too: pydantic takes those for any, strict as it is."""


class ChatRequest(_Part):
    """The body of `POST /v1/chat/completions`. `keep`, `share`, `cuts` and `fastv` are extensions."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: Number | None = None
    """None is 0, greedy, where OpenAI's is 1."""
    top_p: Number | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_in_list)] = Field(
        default_factory=list, max_length=4
    )
    response_format: ResponseFormat | None = None
    keep: Annotated[Number, Tag("number")] | Annotated[Literal["auto"], Tag("auto")] | None = None
    share: Number | None = None
    cuts: list[Number] | None = None
    fastv: FastvOptions = FastvOptions()

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def read_request(body: bytes | bytearray) -> ChatRequest:
    """The request that a body is. Raises ApiError, 400, which names the field."""
    try:
        raw = strict_json.load(bytes(body))
    except strict_json.Unusable as error:
        raise ApiError(400, f"the body: {error}", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise ApiError(400, "the body must be an object", code="invalid_json")
    if LONE.search(body) and not _is_unicode(raw):
        raise ApiError(400, "the body has half a character (a lone surrogate): send whole ones", code="invalid_json")
    raw = _without_nulls(raw)
    fields = {name: value for name, value in raw.items() if name not in IGNORED}
    for name, values in NEUTRAL.items():
        if name in fields and not any(type(fields[name]) is type(each) and fields[name] == each for each in values):
            if name == "n":
                raise _unsupported(name, f"n is {strict_json.shown(fields[name])}: must be 1, one answer a request")
            raise _unsupported(name, f"{name}: this server does not support it: leave it out")
        fields.pop(name, None)
    try:
        request = ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise _refused(error, fields) from None
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens are the same: give one", param="max_tokens")
    return request


def _is_unicode(raw: Any) -> bool:
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unsupported(name: str, message: str) -> ApiError:
    return ApiError(400, message, param=name, code="unsupported_parameter")


def _refused(error: ValidationError, fields: dict[str, Any]) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    param = str(first["loc"][0]) if first["loc"] else None
    unknown = first["type"] == "extra_forbidden"
    message = strict_json.said(error, fields)
    if unknown and len(first["loc"]) == 1:
        return ApiError(
            400,
            f"{strict_json.plain(param)} is no parameter that this server knows",
            param=param,
            code="unknown_parameter",
        )
    return ApiError(400, message, param=param, code="unknown_parameter" if unknown else "invalid_value")
