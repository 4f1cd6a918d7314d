"""Hashes of files, and whether each file of a bundle has the one that it should have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fastv_runtime.config.manifest import FileDigest
from fastv_runtime.errors import UserError
from fastv_runtime.integrity.listing import AGAIN
from fastv_runtime.integrity.remembered import HashedFile, Stamp, recall, remember

Advance = Callable[[int], None]
"""Called with the number of bytes that were checked since its last call."""


def check_files(
    bundle: Path, files: Mapping[str, FileDigest], *, check_hashes: bool, progress: Advance | None = None
) -> None:
    """UserError for a file of another size or content than it should have.

    check_hashes: hash every file; otherwise those that are as they were when their hash was found right are believed.
    """
    for name, digest in files.items():
        size = (bundle / name).stat().st_size
        if size != digest.size:
            raise UserError(f"{bundle / name}: {size} bytes where the manifest has {digest.size}: {AGAIN}")
    known = {} if check_hashes else recall(bundle)
    found: dict[str, HashedFile] = {}
    for name, digest in files.items():
        path = bundle / name
        hashed = HashedFile(sha256=digest.sha256, stamp=Stamp.of(path))
        if known.get(name) == hashed:
            if progress is not None:
                progress(digest.size)
        elif sha256(path, progress) != digest.sha256:
            raise UserError(f"{path}: its sha256 is not the manifest's, the file was changed or damaged: {AGAIN}")
        elif not hashed.stamp.settled or Stamp.of(path) != hashed.stamp:
            continue
        found[name] = hashed
    if found != known:
        remember(bundle, found)


def sha256(path: Path, progress: Advance | None = None) -> str:
    """Hex digest of a file, read in blocks of 4 MiB."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
        if progress is not None:
            progress(len(block))
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 22):
            yield block
