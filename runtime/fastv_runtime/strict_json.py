"""JSON from outside into typed models: what is not as it should be is one line in this program's words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fastv_runtime.errors import UserError

Model = TypeVar("Model", bound=BaseModel)

MOST_BYTES = 64 << 20
"""Largest file that is read: a calibration of thousands of samples or a long report is a tenth of it."""

MOST_SHOWN = 40
"""Characters of a value that a message shows."""

WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is no field that this program knows",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of a size that a machine can hold",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "string_unicode": "must be a text in UTF-8",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must have the form {pattern}",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "must have as {discriminator} one of {expected_tags}",
    "union_tag_not_found": "has no {discriminator}",
}
"""What is said of pydantic's types of errors."""

SELF_EVIDENT = ("missing", "extra_forbidden", "union_tag_invalid", "union_tag_not_found", "value_error")
"""Errors that need no value beside them."""


class Unusable(ValueError):
    """JSON that is not what was asked for: one line that names the field, its value and what it must be."""


def read_model(file: Path, model: type[Model], advice: str, *, name: str | None = None, strict: bool = True) -> Model:
    """The model in a JSON file. Raises UserError, "`name`: what is wrong: `advice`", for what is none.

    name: what the file is called in messages; None means its path. strict: as for `validated`.
    """
    try:
        return validated(model, read_bytes(file), strict=strict)
    except OSError as error:
        raise UserError(f"{name or file}: {error.strerror}: {advice}") from None
    except Unusable as error:
        raise UserError(f"{name or file}: {error}: {advice}") from None


def read_bytes(file: Path) -> bytes:
    """A file of at most MOST_BYTES. Raises Unusable for a larger one, OSError for one that cannot be read."""
    with file.open("rb") as opened:
        data = opened.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise Unusable(f"larger than {MOST_BYTES >> 20} MiB")
    return data


def validated(model: type[Model], data: bytes, *, strict: bool = True) -> Model:
    """`data` as a model. Raises Unusable.

    strict: numbers are numbers and no texts or truth values that could be read as such.
    """
    raw = load(data)
    try:
        return model.model_validate_json(data, strict=strict)
    except ValidationError as error:
        raise Unusable(said(error, raw)) from None


def load(data: bytes) -> Any:
    """What JSON says, of which nothing is ambiguous: UTF-8, no name twice, no NaN. Raises Unusable."""
    if data.startswith(b"\xef\xbb\xbf"):
        raise Unusable("begins with a byte order mark: it must be UTF-8 without one")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise Unusable("not a text file in UTF-8") from None
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Unusable(f"not JSON: line {error.lineno}, column {error.colno}: {_lower(error.msg)}") from None
    except Unusable:
        raise
    except ValueError:  # Python reads no integers of thousands of digits
        raise Unusable("has a number of thousands of digits") from None


def said(error: ValidationError, raw: Any = None) -> str:
    """The first thing that pydantic found, in our words: "plan.keep is 3: must be at most 1".

    raw: what was validated. Its own fields are named then, and not the member of a union that pydantic tried.
    """
    first = error.errors(include_url=False)[0]
    kind = first["type"]
    context = {
        name: f"{value:.15g}" if isinstance(value, float) else value for name, value in first.get("ctx", {}).items()
    }
    path = first["loc"]
    if path and path[-1] == "[key]":  # pydantic's mark: not the value is wrong but its name
        path = path[:-2]
    where = _place(path, raw) if raw is not None else ".".join(map(str, path))
    if kind == "json_invalid":
        detail = str(context.get("error", ""))
        return "nested too deeply" if "recursion" in detail else f"not JSON: {detail}"
    if kind == "value_error":
        why = str(context["error"])
        return f"{where}: {why}" if where else why
    why = WORDS[kind].format(**context) if kind in WORDS else _lower(first["msg"].removeprefix("Input should be "))
    if kind in SELF_EVIDENT:
        return f"{where or 'the whole file'} {why}"
    return f"{where or 'the whole file'} is {shown(first['input'])}: {why}"


def shown(value: object) -> str:
    """A value as a message shows it: short, on one line, printable."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def plain(name: object) -> str:
    """A name from outside as a message shows it: as it is, or quoted where it would break the line."""
    text = str(name)
    whole = text.isprintable() and text == text.strip() != "" and len(text) <= 4 * MOST_SHOWN
    return text if whole else shown(text)


def _place(path: Sequence[int | str], raw: Any) -> str:
    parts = []
    for index, part in enumerate(path):
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            if index < len(path) - 1 or not isinstance(raw, Mapping):
                continue  # the name of a union's member
        parts.append(plain(part))
    return ".".join(parts)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unusable(f"has {plain(twice)} twice in one object")
    return found


def _no_number(name: str) -> Any:
    raise Unusable(f"has the number {name}, which is none in JSON")


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
