"""Hashes of many gigabytes, computed in the background while other work goes on: hashlib releases Python's lock."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fastv_export.progress import Bytes
from fastv_runtime.config.bundle import FileDigest, sha256


class Digests:
    """sha256 of files, one after another in one thread, which `hashed` follows."""

    def __init__(self, hashed: Bytes):
        self._executor = ThreadPoolExecutor(1, "sha256")
        self._futures: dict[Path, Future[FileDigest]] = {}
        self._hashed = hashed
        self._stopped = False

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._executor.shutdown(cancel_futures=True)

    def add(self, *paths: Path) -> None:
        """Hash files that will not change any more."""
        for path in paths:
            self._hashed.expect(path.stat().st_size)
            self._futures[path] = self._executor.submit(self._digest, path)

    def __getitem__(self, path: Path) -> FileDigest:
        """The digest of a file that was added; waits for it."""
        return self._futures[path].result()

    def _digest(self, path: Path) -> FileDigest:
        return FileDigest(sha256=sha256(path, self._advance), size=path.stat().st_size)

    def _advance(self, count: int) -> None:
        if self._stopped:
            raise InterruptedError("the export has ended")
        self._hashed(count)
