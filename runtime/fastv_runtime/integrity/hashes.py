"""Hashes of files, and whether each file has the one that it should have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fastv_runtime.config.manifest import FileDigest
from fastv_runtime.errors import UserError
from fastv_runtime.integrity.listing import AGAIN

Advance = Callable[[int], None]
"""Called with the number of bytes that were hashed since its last call."""


def check_file(path: Path, digest: FileDigest, progress: Advance | None = None) -> None:
    """UserError for a file of another size or content."""
    check_size(path, digest)
    if sha256(path, progress) != digest.sha256:
        raise UserError(f"{path}: its sha256 is not the manifest's, the file was changed or damaged: {AGAIN}")


def check_size(path: Path, digest: FileDigest) -> None:
    """UserError for a file of another size."""
    if (size := path.stat().st_size) != digest.size:
        raise UserError(f"{path}: {size} bytes where the manifest has {digest.size}: {AGAIN}")


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
