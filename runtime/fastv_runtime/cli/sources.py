"""What a command line names as an image or a text: a file, the standard input, or an address."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastv_runtime.errors import UserError
from fastv_runtime.streams import require_stdin

if TYPE_CHECKING:
    from PIL import Image

STDIN = "-"
MOST_BYTES = 64 << 20
"""Of an image from the standard input, more than any camera's; and of the text or a line of that."""


def open_source(source: str, *, allow_url: bool) -> Image.Image:
    """The image that a word of the command line names, in RGB and upright.

    allow_url: whether `http:`, `https:` and `data:` are addresses; otherwise they are refused. Raises UserError.
    """
    from fastv_runtime.preprocessing.addresses import SCHEMES, fetch, scheme_of
    from fastv_runtime.preprocessing.images.loading import as_image, open_image

    scheme = scheme_of(source)
    if source == STDIN:
        return _named("the standard input", as_image, read_stdin())
    if scheme not in (*SCHEMES, "data"):
        return open_image(source)
    name = source if len(source) <= 80 else f"{source[:80]}..."
    if not allow_url:
        raise UserError(f"{name}: an address: give --allow-url to have it opened, or the path of a file")
    return _named(name, as_image, fetch(source, name))


def _named(name: str, read: Any, data: bytes) -> Image.Image:
    if not data:
        raise UserError(f"{name}: empty, there is no image in it")
    try:
        image: Image.Image = read(data)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return image


def read_stdin() -> bytes:
    """All of the standard input, of at most MOST_BYTES. Raises UserError."""
    return _bounded("read")


def read_line() -> bytes:
    """The next line of the standard input, of at most MOST_BYTES; nothing at its end. Raises UserError."""
    return _bounded("readline")


def _bounded(method: Literal["read", "readline"]) -> bytes:
    require_stdin()
    try:
        data: bytes = getattr(sys.stdin.buffer, method)(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"the standard input: cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"the standard input: more than {MOST_BYTES >> 20} MiB: give less")
    return data


def text_of(data: bytes, name: str) -> str:
    """Raises UserError for what is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 (byte {error.start}): save it as UTF-8") from None


def read_prompts(source: str) -> Iterator[tuple[str, str]]:
    """(where, prompt) for each line that is not blank.

    A file is read and checked at once, the standard input line by line as it comes. Raises UserError.
    """
    if source == STDIN:
        name, lines = "the standard input", iter(read_line, b"")
    else:
        name, lines = source, iter(read_file(source).splitlines())
    found = (
        (f"{name}:{number}", text_of(line, f"{name}:{number}").strip()) for number, line in enumerate(lines, start=1)
    )
    prompts = ((where, prompt) for where, prompt in found if prompt)
    if source == STDIN:
        return prompts
    known = list(prompts)
    if not known:
        raise UserError(f"{source}: no prompt in it: write one a line")
    return iter(known)


def read_file(source: str) -> bytes:
    """A file of at most 64 MiB. Raises UserError."""
    from fastv_runtime.strict_json import Unusable, read_bytes

    try:
        return read_bytes(Path(source))
    except Unusable as error:
        raise UserError(f"{source}: {error}: give it in parts") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror}") from None
