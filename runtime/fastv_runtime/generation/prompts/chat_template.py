"""Which chat template a checkpoint's prompts are written by, and writing turns with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from fastv_runtime.errors import UserError
from fastv_runtime.generation.prompts.bounded_template import render

Turn = Mapping[str, Any]
"""{"role": ..., "content": parts}, as transformers has it; a part has a `type`, and a `text` if that is its type."""

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
            rendered = _rendered(tokenizer, [{"role": "user", "content": content}])
        except (TypeError, ValueError, jinja2.TemplateError) as error:
            failure = str(error)
            continue
        # A template for text alone prints the list of parts: as Python, or as JSON.
        if PROBE in rendered and "'type'" not in rendered and '"type"' not in rendered:
            return content is not PROBE
    raise _unusable(failure)


def conversation(tokenizer: Any, turns: Sequence[Turn], *, parts: bool) -> str:
    """The turns and the start of the answer, by the tokenizer's template.

    parts: what `takes_parts` says. Raises UserError for images that a template of text alone has no place for, for a
    system message that the template leaves out, and for a template that fails.
    """
    if not parts and any(part["type"] != "text" for turn in turns for part in turn["content"]):
        raise UserError(
            "the checkpoint's chat template takes text alone, and has no place for an image or a video: write the "
            "model's own token for it into the prompt, where it belongs"
        )
    if not parts:
        return _complete(tokenizer, turns, [_joined(turn) for turn in turns])
    try:
        return _complete(tokenizer, turns, turns)
    except UserError:
        # Templates that read the parts of a user's turn, and want the text itself of the others.
        others = [_joined(turn) if turn["role"] != "user" else turn for turn in turns]
        if others == list(turns):
            raise
        return _complete(tokenizer, turns, others)


def _joined(turn: Turn) -> Turn:
    """The turn with its text in one, where it is all text."""
    if any(part["type"] != "text" for part in turn["content"]):
        return turn
    return {**turn, "content": "".join(part["text"] for part in turn["content"])}


def _complete(tokenizer: Any, turns: Sequence[Turn], written: Sequence[Turn]) -> str:
    """Render `written`, a form of `turns`; UserError where a text is missing, or parts are printed as they are."""
    try:
        rendered = _rendered(tokenizer, written)
    except (TypeError, ValueError, jinja2.TemplateError) as error:
        if len(turns) > 1:
            raise UserError(f"the checkpoint's chat template refuses these messages: {error}") from None
        raise _unusable(str(error)) from None
    for turn in turns:
        texts = [part["text"].strip() for part in turn["content"] if part["type"] == "text"]
        lost = turn["role"] == "system" and not all(text in rendered for text in texts)
        if lost or str(turn["content"]) in rendered or json.dumps(turn["content"]) in rendered:
            raise UserError(
                f"the checkpoint's chat template has no place for a message of the role {turn['role']}: leave it out, "
                "or say it in the user's"
            )
    return rendered


def _rendered(tokenizer: Any, turns: Sequence[Turn]) -> str:
    return render(tokenizer.chat_template, turns, tokenizer.special_tokens_map)


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
