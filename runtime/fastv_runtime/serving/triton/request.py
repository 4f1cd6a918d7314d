"""From the inputs of a request to Triton to a job for the scheduler. Knows nothing of Triton itself."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.question import read_question
from fastv_runtime.generation.calls.settings import read_settings
from fastv_runtime.serving.scheduler import Job
from fastv_runtime.serving.triton.tensors import INPUTS, NAMES, STREAM, value_of
from fastv_runtime.strict_json import Unusable, load

if TYPE_CHECKING:
    from fastv_runtime.config.bundle import Manifest

TEXTS = ("prompt", "system")
QUESTION = (*TEXTS, "messages", "images")


def read_request(manifest: Manifest, arrays: Mapping[str, Any], deadline_s: float | None = None) -> tuple[Job, bool]:
    """The job that a request asks for, and whether its answer is streamed.

    arrays: the inputs that were given, by their names, as numpy arrays [N]. Raises UserError.
    """
    given = {tensor: value_of(tensor, arrays[tensor.name]) for tensor in INPUTS if tensor.name in arrays}
    values = {tensor.keyword: value for tensor, value in given.items() if tensor.keyword}
    for keyword in TEXTS:
        if keyword in values:
            values[keyword] = _text(values[keyword], NAMES[keyword])
    images = [_image(each) for each in values.pop("images", [])]
    messages = _messages(values.pop("messages")) if "messages" in values else None
    question = read_question(values.pop("prompt", None), messages, values.pop("system", None), images, ())
    # Those of IMAGE are bytes, which JSON has none of: anything else stood in a message, and could be a path of ours.
    if question.videos or not all(isinstance(image, bytes) for image in question.images):
        raise UserError(
            'MESSAGES: a part holds an image or a video itself: give images as IMAGE, and write {"type": "image"} '
            "where each belongs"
        )
    settings = read_settings(manifest, **values)
    streamed = next((bool(value) for tensor, value in given.items() if tensor.name == STREAM), False)
    return Job(question, settings, deadline_s), streamed


def in_their_words(message: str) -> str:
    """An error's message with the names of inputs for those of options in backticks."""
    return re.sub(r"`(\w+)`", lambda option: NAMES.get(option[1], option[0]), message)


def _text(value: Any, name: str) -> str:
    """Triton gives bytes."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise UserError(f"{name}: not valid Unicode: give it as UTF-8") from None


def _messages(value: Any) -> Any:
    try:
        return load(value if isinstance(value, bytes) else str(value).encode())
    except Unusable as error:
        raise UserError(f"MESSAGES: {error}: give a list of messages as JSON") from None


def _image(value: Any) -> bytes:
    """The bytes of an image's file, which may stand as a `data:` address where JSON carries texts alone."""
    data = value if isinstance(value, bytes) else str(value).encode()
    if not data.startswith(b"data:"):
        return data
    head, _, content = data.partition(b",")
    try:
        if not head.endswith(b";base64"):
            raise UserError("IMAGE: a data: address that is not in base64: write data:image/png;base64,...")
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise UserError(f"IMAGE: a data: address that is not in base64: {error}") from None
