"""One clear line in place of whatever a library raises of a checkpoint's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from fastv_runtime.errors import UserError
from fastv_runtime.strict_json import said


@contextmanager
def reading(file: Path, copy: Path | None = None) -> Iterator[None]:
    """Within this context a library is given what `file` holds; its errors become a UserError that names that file.

    copy: where the library found it, if not there. Keep it around calls of the library alone: an error of ours would
    be blamed on the user.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        words = _words(error)
        if copy is not None:
            words = words.replace(str(copy), str(file))
        shown = words if len(words) <= 200 else f"{words[:200]}..."
        raise UserError(f"{file}: cannot be used ({shown}): mend it, or copy it again") from error


def _words(error: Exception) -> str:
    """What an error says first, on one line, after its kind."""
    kind = type(error).__name__
    if isinstance(error, ValidationError):
        return said(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):  # transformers' configs say below it which field it is, and why
        return lines[1]
    return f"{kind}: {''.join(lines[:1])}"


@contextmanager
def within_bounds(file: Path) -> Iterator[None]:
    """What a file says that no bundle can say, a number out of all bounds, is a UserError that names that file."""
    try:
        yield
    except ValidationError as error:
        raise UserError(f"{file}: cannot be used ({said(error)}): mend it, or copy it again") from None
