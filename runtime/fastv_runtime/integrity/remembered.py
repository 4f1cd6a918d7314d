"""Hashes that were found right before, in the user's cache: what is still the same file need not be read again.

The same file: at the same path, with the size, times, inode and device that it had when it was hashed. The time of its
last change (ctime) is the system's, which programs cannot set; so what is remembered is as good as the clock and the
file system. It is no defence against somebody who can write the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from fastv_runtime.config.base import StrictModel
from fastv_runtime.errors import UserError
from fastv_runtime.files import write_atomically
from fastv_runtime.strict_json import Unusable, read_bytes, validated

SETTLED = 2.0
"""Seconds since a file's last change: before that, another change could leave its times as they are."""

MOST_BUNDLES = 500
"""Of which the cache remembers hashes: a file of a few KiB each, and the oldest make room."""


class Stamp(StrictModel):
    """By what a file is known to be the same."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        stat = path.stat()
        return cls(
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            ctime_ns=stat.st_ctime_ns,
            inode=stat.st_ino,
            device=stat.st_dev,
        )

    @property
    def settled(self) -> bool:
        """Whether a later change would show."""
        return time.time() - max(self.mtime_ns, self.ctime_ns) / 1e9 > SETTLED


class HashedFile(StrictModel):
    """A file as it was when it was hashed."""

    sha256: str
    stamp: Stamp


class HashedBundle(StrictModel):
    """One file of the cache: what was hashed of one bundle, by paths in it."""

    version: Literal[1] = 1
    bundle: str
    """Its path, links resolved: of another one nothing is believed."""
    files: dict[str, HashedFile]


def recall(bundle: Path) -> dict[str, HashedFile]:
    """What is remembered of the bundle at a path; nothing where the cache is missing, damaged or not to be read."""
    try:
        found = validated(HashedBundle, read_bytes(_file(bundle)))
    except (OSError, Unusable, RuntimeError):
        return {}
    return found.files if found.bundle == _resolved(bundle) else {}


def remember(bundle: Path, files: dict[str, HashedFile]) -> None:
    """Replace what is remembered of a bundle. A cache that cannot be written is left alone."""
    with suppress(OSError, UserError, RuntimeError):
        file = _file(bundle)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(file, HashedBundle(bundle=_resolved(bundle), files=files).model_dump_json())
        others = sorted(file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in others[:-MOST_BUNDLES]:
            path.unlink(missing_ok=True)


def _file(bundle: Path) -> Path:
    from platformdirs import user_cache_path

    name = hashlib.sha256(os.fsencode(_resolved(bundle))).hexdigest()[:32]
    return user_cache_path("fastv-edge", appauthor=False) / "hashes" / f"{name}.json"


def _resolved(bundle: Path) -> str:
    # What is no text in UTF-8 would be none in JSON.
    return os.fsencode(bundle.resolve()).decode("utf-8", "backslashreplace")
