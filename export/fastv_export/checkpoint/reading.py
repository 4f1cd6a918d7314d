"""One clear line in place of whatever a library raises of a checkpoint's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from fastv_runtime.errors import UserError


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
        first = error.errors()[0]
        return f"{kind}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):  # transformers' configs say below it which field it is, and why
        return lines[1]
    return f"{kind}: {''.join(lines[:1])}"
