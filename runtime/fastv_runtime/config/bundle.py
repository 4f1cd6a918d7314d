"""A bundle on disk: opened, and checked against itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastv_runtime.config.consistency import check_consistent
from fastv_runtime.config.manifest import (
    EMBEDDING,
    END_TO_END,
    GOLDEN,
    MANIFEST,
    PROCESSOR,
    SCHEMA_VERSION,
    DecoderConfig,
    FileDigest,
    GraphSpec,
    Manifest,
    QuantizationCost,
    Tokens,
)
from fastv_runtime.errors import UserError
from fastv_runtime.integrity.hashes import check_files, sha256
from fastv_runtime.integrity.listing import AGAIN, check_listed
from fastv_runtime.integrity.signature import check_signature
from fastv_runtime.memory.layout import numpy_dtype
from fastv_runtime.strict_json import Unusable, load, read_bytes, shown, validated

__all__ = [
    "EMBEDDING",
    "END_TO_END",
    "GOLDEN",
    "MANIFEST",
    "PROCESSOR",
    "SCHEMA_VERSION",
    "Bundle",
    "DecoderConfig",
    "FileDigest",
    "GraphSpec",
    "Manifest",
    "QuantizationCost",
    "Tokens",
    "read_manifest",
    "sha256",
]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        check_hashes: bool = False,
        public_key: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Bundle:
        """Read the manifest and check the size and sha256 of every file it lists; every file there must be listed.

        A hash that was found right before is remembered in the user's cache, and believed while the file's size,
        times, inode and device are what they were.

        check_hashes: hash every file, whatever is remembered.
        public_key: refuse a bundle that is not signed by its owner: a file that minisign wrote, or the key in base64.
        Implies check_hashes.
        progress: is called with the number of bytes checked since its last call.
        Raises UserError for anything that is not a whole, unchanged bundle of a known schema.
        """
        if not isinstance(check_hashes, bool):
            raise UserError(f"`check_hashes` {check_hashes!r}: must be True or False")
        if not isinstance(public_key, str | os.PathLike | None):
            raise UserError(
                f"`public_key`: a value of type {type(public_key).__name__} where a path or key is expected"
            )
        if public_key == "":
            raise UserError("`public_key` is empty: give the file that minisign wrote, or the key in it")
        bundle = cls(Path(path), read_manifest(path, public_key=public_key))
        files = bundle.manifest.files
        try:
            check_listed(bundle.path, files)
            check_files(bundle.path, files, check_hashes=check_hashes or public_key is not None, progress=progress)
        except OSError as error:
            raise UserError(f"{error.filename or path}: cannot be read: {error.strerror}: {AGAIN}") from None
        return bundle

    def file(self, name: str) -> Path:
        return self.path / name

    def embedding(self) -> np.memmap:
        """The embedding table [V, D], memory-mapped: only the rows that are read become resident."""
        decoder = self.manifest.decoder
        shape = (decoder.vocab_size, decoder.hidden_size)
        return np.memmap(self.file(EMBEDDING), numpy_dtype(self.manifest.embedding_dtype), mode="r", shape=shape)

    @property
    def total_bytes(self) -> int:
        return sum(digest.size for digest in self.manifest.files.values())


def read_manifest(path: str | Path, *, public_key: str | Path | None = None) -> Manifest:
    """`bundle.json` of the bundle at `path`, checked against itself; the files that it lists are not looked at.

    public_key: as for `Bundle.open`. Raises UserError.
    """
    path = Path(path)
    file = path / MANIFEST
    if not path.exists():
        raise UserError(f"{path}: no such bundle: give the directory that fastv-export wrote")
    if not file.is_file():
        raise UserError(f"{path}: not a bundle, it has no {MANIFEST}: give the directory that fastv-export wrote")
    try:
        data = read_bytes(file)
        if public_key is not None:
            check_signature(path, data, public_key)
        _check_version(load(data), file)
        manifest = validated(Manifest, data)
        check_consistent(manifest)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}: {AGAIN}") from None
    except ValueError as error:  # Unusable is one
        raise UserError(f"{file}: {error}: {AGAIN}") from None
    return manifest


def _check_version(raw: object, file: Path) -> None:
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise Unusable(f"schema_version is {shown(version)}: must be a whole number")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{file}: schema version {shown(version)} is newer than this program's {SCHEMA_VERSION}: "
            "upgrade fastv-edge, or export with this version"
        )
    if version < SCHEMA_VERSION:
        raise UserError(f"{file}: schema version {shown(version)} is too old (now {SCHEMA_VERSION}): export again")
