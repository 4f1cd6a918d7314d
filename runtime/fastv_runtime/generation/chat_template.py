"""Which chat template a checkpoint's prompts are written by, and writing one user turn with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from fastv_runtime.errors import UserError
from fastv_runtime.generation.bounded_template import render

FOLDER = "additional_chat_templates"
"""Of templates by name, each in a file of its own."""

PROBE = "question"
"""A text that no template changes."""


def chat_template(directory: Path, tokenizer: Any) -> str | None:
    """The template that transformers' processor would use, else the tokenizer's; None if there is none.

    A processor takes the one in processor_config.json before chat_template.json (which transformers 4 wrote), and that
    before chat_template.jinja. Of several by name it takes `default`. Raises UserError where none has that name.
    """
    for found in (_in_json(directory / "processor_config.json"), _in_json(directory / "chat_template.json")):
        if found is not None:
            return _default(found, directory)
    files = [directory / "chat_template.jinja", *sorted((directory / FOLDER).glob("*.jinja"))]
    named = {file.stem: file.read_text(encoding="utf-8") for file in reversed(files) if file.is_file()}
    if "chat_template" in named:
        named["default"] = named.pop("chat_template")
    return _default(named or tokenizer.chat_template, directory)


def takes_parts(tokenizer: Any) -> bool:
    """Whether the tokenizer's template reads a turn's parts (images and text), or knows text alone.

    Raises UserError for a template that does not even write a turn's text.
    """
    failure = "it leaves the question out"
    for content in ([{"type": "text", "text": PROBE}], PROBE):
        try:
            rendered = _rendered(tokenizer, content)
        except (TypeError, ValueError, jinja2.TemplateError) as error:
            failure = str(error)
            continue
        # A template for text alone prints the list of parts: as Python, or as JSON.
        if PROBE in rendered and "'type'" not in rendered and '"type"' not in rendered:
            return content is not PROBE
    raise _unusable(failure)


def user_turn(tokenizer: Any, content: list[dict[str, str]], *, parts: bool) -> str:
    """One user turn and the start of the answer, by the tokenizer's template.

    content: of type `image`, `video` or `text`, in their order. parts: what `takes_parts` says. Raises UserError for
    images that a template of text alone has no place for, and for a template that fails.
    """
    if not parts and any(part["type"] != "text" for part in content):
        raise UserError(
            "the checkpoint's chat template takes text alone, and has no place for an image or a video: write the "
            "model's own token for it into the prompt, where it belongs"
        )
    try:
        return _rendered(tokenizer, content if parts else "".join(part["text"] for part in content))
    except (TypeError, ValueError, jinja2.TemplateError) as error:
        raise _unusable(str(error)) from None


def _rendered(tokenizer: Any, content: Any) -> str:
    turn = [{"role": "user", "content": content}]
    return render(tokenizer.chat_template, turn, tokenizer.special_tokens_map)


def _unusable(why: str) -> UserError:
    return UserError(f"the checkpoint's chat template cannot be used: {why}: mend it, and export again")


def _in_json(file: Path) -> Any:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("chat_template")
    except (ValueError, AttributeError):
        raise UserError(f"{file}: not a JSON object: export the checkpoint again") from None


def _default(found: Any, directory: Path) -> str | None:
    if isinstance(found, list):  # the form of old tokenizer_config.json
        found = {each["name"]: each["template"] for each in found}
    if found is None or isinstance(found, str):
        return found
    if "default" not in found:
        raise UserError(
            f"{directory}: chat templates {', '.join(sorted(found))} and none called default: name one so, "
            "and export again"
        )
    template: str = found["default"]
    return template
