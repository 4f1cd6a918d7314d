"""A bundle on disk: opened, and checked against itself."""

from __future__ import annotations

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
from fastv_runtime.integrity.hashes import check_file, check_size, sha256
from fastv_runtime.integrity.listing import AGAIN, check_listed
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
    def open(cls, path: str | Path, *, progress: Callable[[int], None] | None = None) -> Bundle:
        """Read the manifest and check the size and sha256 of every file it lists; every file there must be listed.

        `progress` is called with the number of bytes hashed since its last call.
        Raises UserError for anything that is not a whole, unchanged bundle of a known schema.
        """
        bundle = cls(Path(path), read_manifest(path))
        files = bundle.manifest.files
        try:
            check_listed(bundle.path, files)
            for name, digest in files.items():
                check_size(bundle.file(name), digest)
            for name, digest in files.items():
                check_file(bundle.file(name), digest, progress)
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


def read_manifest(path: str | Path) -> Manifest:
    """`bundle.json` of the bundle at `path`, checked against itself; the files that it lists are not looked at."""
    path = Path(path)
    file = path / MANIFEST
    if not path.exists():
        raise UserError(f"{path}: no such bundle: give the directory that fastv-export wrote")
    if not file.is_file():
        raise UserError(f"{path}: not a bundle, it has no {MANIFEST}: give the directory that fastv-export wrote")
    try:
        data = read_bytes(file)
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
