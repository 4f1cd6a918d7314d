"""From the inputs of a request to Triton to a job for the scheduler. Knows nothing of Triton itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.question import read_question
from fastv_runtime.generation.calls.settings import read_settings
from fastv_runtime.generation.grammar import Grammar
from fastv_runtime.preprocessing.addresses import fetch, scheme_of
from fastv_runtime.serving.scheduler import Job
from fastv_runtime.serving.triton.tensors import INPUTS, NAMES, STREAM, value_of
from fastv_runtime.strict_json import Unusable, load

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Manifest

ADDRESS = "data:"


def read_request(manifest: Manifest, arrays: Mapping[str, Any], deadline_s: float | None = None) -> tuple[Job, bool]:
    """The job that a request asks for, and whether its answer is streamed.

    arrays: the inputs that were given, by their names, as numpy arrays [N]. Raises UserError.
    """
    given = {tensor: value_of(tensor, arrays[tensor.name]) for tensor in INPUTS if tensor.name in arrays}
    texts = {tensor.name: _texts(value, tensor.name) for tensor, value in given.items() if tensor.is_text}
    values = {tensor.keyword: texts.get(tensor.name, value) for tensor, value in given.items() if tensor.keyword}
    images = [_image(each) for each in values.pop("images", [])]
    messages = _messages(values.pop("messages")) if "messages" in values else None
    question = read_question(values.pop("prompt", None), messages, values.pop("system", None), images, ())
    # Those of IMAGE are bytes, which JSON has none of: anything else stood in a message, and could be a path of ours.
    if question.videos or not all(isinstance(image, bytes) for image in question.images):
        raise UserError(
            'MESSAGES: a part holds an image or a video itself: give images as IMAGE, and write {"type": "image"} '
            "where each belongs"
        )
    grammar = _grammar(values.pop("json_schema", None), values.pop("regex", None))
    settings = read_settings(manifest, grammar=grammar, **values)
    streamed = next((bool(value) for tensor, value in given.items() if tensor.name == STREAM), False)
    return Job(question, settings, deadline_s), streamed


def in_their_words(message: str) -> str:
    """An error's message with the names of inputs for those of options in backticks."""
    message = re.sub(r"`(\w+)`", lambda option: NAMES.get(option[1], option[0]), message)
    return re.sub(r"`export\.(\w+)`", r"`\1` of fastv-export", message)


def _texts(value: Any, name: str) -> Any:
    """Triton gives bytes; a text, or a list of them."""
    if isinstance(value, list):
        return [_texts(each, name) for each in value]
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name}: not valid Unicode: give it as UTF-8") from None


def _messages(text: str) -> Any:
    try:
        return load(text.encode())
    except Unusable as error:
        raise UserError(f"MESSAGES: {error}: give a list of messages as JSON") from None


def _grammar(schema: str | None, pattern: str | None) -> Grammar | None:
    if schema is not None and pattern is not None:
        raise UserError("`regex`: the answer follows `json_schema` already: leave one of them out")
    if schema is not None:
        return Grammar.json_schema(schema)
    return None if pattern is None else Grammar.regex(pattern)


def _image(data: bytes) -> bytes:
    """The bytes of an image's file, which may stand as a `data:` address where JSON carries texts alone."""
    if scheme_of(data[: len(ADDRESS)].decode("latin-1")) != "data":
        return data
    try:
        return fetch(data.decode("ascii"), "IMAGE")
    except UnicodeDecodeError:
        raise UserError("IMAGE: a data: address that is not ASCII: give its bytes in base64") from None
