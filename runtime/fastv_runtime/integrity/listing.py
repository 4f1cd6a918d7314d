"""Which files lie in a bundle: those that it lists, inside it, and no others that anything could read unchecked."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from fastv_runtime.errors import UserError

UNLISTED = frozenset({"engines", "README.md", "LICENSE", "bundle.json", "bundle.json.minisig"})
"""What may lie in a bundle unlisted, beside names that begin with a dot (of git, of a hub's cache, of a desktop).

Only at the top, from where nothing is read by its mere presence. Engines have a receipt of their own.
"""

AGAIN = "copy the bundle again, or export it again"


def check_listed(bundle: Path, listed: Collection[str]) -> None:
    """UserError for a file that is listed and not there, or lies outside; and for one that is there and not listed."""
    allowed = _places(bundle)
    for name in listed:
        path = bundle / name
        if name.split("/")[0] in UNLISTED:
            raise UserError(f"{bundle}: files lists {name}, which is no part of what an export writes: {AGAIN}")
        try:
            inside = any(path.resolve().is_relative_to(place) for place in allowed)
        except (OSError, RuntimeError):  # links in a circle
            inside = False
        if not inside:
            raise UserError(f"{bundle}: {name} lies outside the bundle: copy the file itself, or export it again")
        if not path.is_file():
            raise UserError(f"{bundle}: {name} is missing: {AGAIN}")
    for name in _present(bundle):
        if name not in listed:
            raise UserError(
                f"{bundle}: {name} is not listed in bundle.json, so it cannot be checked: remove it, or export again"
            )


def _places(bundle: Path) -> list[Path]:
    """Where files of a bundle may lie: in it, and for one in a Hugging Face hub cache among that cache's blobs."""
    whole = bundle.resolve()
    caches = [parent.parent / "blobs" for parent in whole.parents if parent.name == "snapshots"]
    return [whole, *caches]


def _present(bundle: Path) -> Iterator[str]:
    """Files, by their path in the bundle; links to directories count, since what is behind them could be read."""
    waiting = [path for path in sorted(bundle.iterdir()) if path.name not in UNLISTED and not path.name.startswith(".")]
    while waiting:
        path = waiting.pop()
        if path.is_dir() and not path.is_symlink():
            waiting += sorted(path.iterdir())
        else:
            yield path.relative_to(bundle).as_posix()
