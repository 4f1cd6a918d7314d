"""Paths inside a bundle, as its manifest may write them: the same file on every system, and inside. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PureWindowsPath
from typing import Annotated

from pydantic import AfterValidator

MOST_PART = 255
"""Bytes of one name that file systems hold."""

MOST_WHOLE = 1024

DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
"""Names that Windows keeps for devices, whatever their ending."""


def checked_path(path: str) -> str:
    """The path itself. Raises ValueError for one that is not relative, plain and inside."""
    if not path or len(path.encode("utf-8", "replace")) > MOST_WHOLE:
        raise ValueError(f"a path in the bundle has 1 to {MOST_WHOLE} bytes")
    if path.startswith("/") or "\\" in path or PureWindowsPath(path).drive:
        raise ValueError(f"{path!r} is no path inside the bundle: write it relative, with /")
    if not path.isprintable() or set(path) & set('<>:"|?*'):
        raise ValueError(f"{path!r} has characters that not every file system takes")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"{path!r} is no path inside the bundle: leave out empty parts, . and ..")
        if part[-1] in ". " or part[0] == " " or part.partition(".")[0].lower() in DEVICES:
            raise ValueError(f"{path!r} has a name that not every file system takes")
        if len(part.encode()) > MOST_PART:
            raise ValueError(f"{path!r} has a name of more than {MOST_PART} bytes")
    return path


def check_distinct(paths: Iterable[str]) -> None:
    """ValueError for paths that are one file where case does not count, or of which one is inside another."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            raise ValueError(f"{other} and {path} are one file where case does not count")
    for folded, path in seen.items():
        parts = folded.split("/")
        for count in range(1, len(parts)):
            if (outer := seen.get("/".join(parts[:count]))) is not None:
                raise ValueError(f"{outer} is a file, and so cannot hold {path}")


BundlePath = Annotated[str, AfterValidator(checked_path)]
"""A file inside a bundle, relative to it."""
