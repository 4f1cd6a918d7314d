"""JSON that somebody else wrote: an object whose keys stand once and whose numbers are some, or one clear line."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from fastv_runtime.errors import UserError

LARGEST = 100 << 20
"""Bytes of one document: what the safetensors library allows a header, and far more than any config has."""
DEEPEST = 64
"""Objects and lists within each other. Published configs have about six."""


def read_object(file: Path) -> dict[str, Any]:
    """The object that a file of JSON holds; UserError for one that holds none, or that two readers could read twice."""
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise _refusal(file, f"{size} bytes are no settings")
        return parse_object(file.read_bytes(), file)
    except OSError as error:
        raise _refusal(file, error.strerror or type(error).__name__) from None


def parse_object(data: bytes, file: Path) -> dict[str, Any]:
    """The same of bytes that were read from `file`."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=lambda pairs: _once(pairs, file))
    except UnicodeDecodeError as error:
        raise _refusal(file, f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _refusal(file, "nested too deeply") from None
    except ValueError as error:
        raise _refusal(file, f"not JSON: {error}" if data.strip() else "it is empty") from None
    if not isinstance(value, dict):
        raise _refusal(file, f"it holds {_kind(value)} where an object is meant")
    _check_values(value, file)
    return value


def _once(pairs: list[tuple[str, Any]], file: Path) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        name, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _refusal(file, f"{name!r} stands in it {'twice' if count == 2 else f'{count} times'}")
    return made


def _check_values(value: dict[str, Any], file: Path) -> None:
    """UserError for NaN and infinity, which Python reads and JSON does not know, and for what is nested too deeply."""
    left: list[tuple[str, Any, int]] = [("", value, 1)]
    while left:
        where, each, depth = left.pop()
        if isinstance(each, float) and not math.isfinite(each):
            raise _refusal(file, f"{where} is {each}, which is no number")
        if depth > DEEPEST:
            raise _refusal(file, "nested too deeply")
        if isinstance(each, dict):
            left += [(f"{where}.{name}" if where else name, part, depth + 1) for name, part in each.items()]
        elif isinstance(each, list):
            left += [(f"{where}[{index}]", part, depth + 1) for index, part in enumerate(each)]


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def _refusal(file: Path, reason: str) -> UserError:
    return UserError(f"{file}: cannot be used ({reason}): mend it, or copy it again")
