"""Features of images and videos that were encoded before: the most recently used ones, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class FeatureCache:
    """Arrays by the digest of what they were made of (`preprocessing.digest.visual_digest`). Thread-safe.

    limit: bytes of arrays at most; 0 keeps nothing. What alone is larger is not kept, and drives out nothing else.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._kept: OrderedDict[str, tuple[np.ndarray, ...]] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0
        """Of the arrays that are kept."""
        self.hits = 0
        """Calls of `get` that found something."""
        self.misses = 0
        """Calls of `get` that found nothing."""

    def get(self, digest: str) -> tuple[np.ndarray, ...] | None:
        """What was put there, read-only, or None."""
        with self._lock:
            found = self._kept.get(digest)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._kept.move_to_end(digest)
            return found

    def put(self, digest: str, arrays: Sequence[np.ndarray]) -> None:
        """Keep copies, and forget the least recently used ones that have no room beside them."""
        size = sum(array.nbytes for array in arrays)
        if size > self.limit:
            return
        kept = tuple(np.array(array) for array in arrays)
        for array in kept:
            array.setflags(write=False)
        with self._lock:
            self._forget(digest)
            while self.nbytes + size > self.limit:
                self._forget(next(iter(self._kept)))
            self._kept[digest] = kept
            self.nbytes += size

    def _forget(self, digest: str) -> None:
        self.nbytes -= sum(array.nbytes for array in self._kept.pop(digest, ()))
