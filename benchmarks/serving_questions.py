"""What the clients of a server under load ask, as OpenAI's API has it, and the answers that a pipeline gives alone."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastv_runtime import Pipeline
from fastv_runtime.generation.grammar import Grammar

TEXTS = ("What color is the star?", "How many rings do you see?", "Tell me about the white object.")
FOLLOWING = ("Where is it?", "What number is in the picture?")
LONG = "long"
LONG_PATTERN = "[a-z ]{120,160}"


@dataclass(frozen=True)
class Question:
    """One request. messages: as `Pipeline.generate` takes them, images as paths; asked: its other arguments."""

    name: str
    messages: list[dict[str, Any]]
    asked: dict[str, Any]
    expected: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    """The same for a server."""


def questions(
    pipeline: Pipeline,
    images: Sequence[Path],
    *,
    texts: Sequence[str] = TEXTS,
    following: Sequence[str] = FOLLOWING,
    most: int = 24,
    long: str | None = LONG_PATTERN,
) -> list[Question]:
    """Single questions, some with a `keep` of their own or sampled with a seed, conversations, and a long answer.

    texts, following: of first and of later turns. most: tokens of an answer. long: what the long one matches.
    """
    found = []
    for place, image in enumerate(images):
        for index, text in enumerate(texts):
            name = f"{image.stem} {index}"
            shown = [{"role": "user", "content": [{"type": "image", "image": str(image)}, _text(text)]}]
            found.append(_answered(pipeline, name, shown, {"max_new_tokens": most}))
            found.append(_answered(pipeline, f"{name} keep", shown, {"max_new_tokens": most, "keep": 0.2}))
            sampled = {"max_new_tokens": most, "temperature": 1.5, "seed": 10 * place + index}
            found.append(_answered(pipeline, f"{name} sampled", shown, sampled))
            said = found[-3]
            for turn, text in enumerate(following):
                before = [*said.messages, {"role": "assistant", "content": said.expected.strip() or "."}]
                said = _answered(
                    pipeline,
                    f"{name} turn {turn + 2}",
                    [*before, {"role": "user", "content": [_text(text)]}],
                    {"max_new_tokens": most},
                )
                found.append(said)
    if long is None:
        return found
    one = [{"role": "user", "content": [{"type": "image", "image": str(images[0])}, _text("Describe it.")]}]
    found.append(_answered(pipeline, LONG, one, {"max_new_tokens": 200, "grammar": Grammar.regex(long)}))
    return found


def asked_of(args: argparse.Namespace) -> dict[str, int]:
    """Options that the server is started with."""
    return {"slots": args.slots, "queue": args.queue, "cache-mb": args.cache_mb, "threads": args.threads}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _answered(pipeline: Pipeline, name: str, messages: list[dict[str, Any]], asked: dict[str, Any]) -> Question:
    answer = pipeline.generate(messages=messages, **asked)
    body: dict[str, Any] = {"model": "fastv", "messages": [_sent(each) for each in messages]}
    for argument, value in asked.items():
        if argument == "max_new_tokens":
            body["max_tokens"] = value
        elif argument == "grammar":
            body["response_format"] = {"type": "regex", "regex": LONG_PATTERN}
        else:
            body[argument] = value
    return Question(name, messages, asked, answer.text, body)


def _sent(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return message if isinstance(content, str) else message | {"content": [_part(each) for each in content]}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image":
        return part
    data = base64.b64encode(Path(part["image"]).read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
