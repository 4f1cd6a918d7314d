"""What the products of a decoder are given, collected sample by sample: for scales of weights of few bits, and ranges.

A sample's statistics are a file of their own until all are merged in the order of the data: sums of floats depend on
their order, and so the result is the same whoever measured a sample, and when.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from fastv_export.quantization.observer import Statistics, means, merged
from fastv_runtime.claims import remove_partials
from fastv_runtime.config.bundle import sha256
from fastv_runtime.files import write_atomically, writing

SAMPLES = 64
"""Statistics are of the data's first samples: tens of thousands of rows. A sample of a 7B model takes 12 MB."""


FORMAT = 2
"""Of a sample's file; one of another is measured again."""


class StatisticsFiles:
    """Statistics on disk, a file a sample, so that an interrupted sweep goes on where it was.

    key: of the measurements that they belong to; files of another key count as missing.
    """

    def __init__(self, folder: Path, key: str):
        self._folder, self._key = folder, f"{key} {FORMAT}"
        self._tidy = False

    def __contains__(self, sample: str) -> bool:
        try:
            with safe_open(self._path(sample), "np") as file:
                return bool((file.metadata() or {}).get("measurements") == self._key)
        except (FileNotFoundError, SafetensorError):
            return False

    def add(self, sample: str, statistics: Statistics) -> None:
        """Keep a sample's statistics; on disk when this returns."""
        if not self._tidy:
            with writing(self._folder):
                self._folder.mkdir(exist_ok=True)
            remove_partials(self._folder)
            self._tidy = True
        write_atomically(self._path(sample), save(statistics, {"measurements": self._key}))

    def merge(self, samples: Sequence[str], target: Path) -> str:
        """Write the means over the samples' rows, merged in this order; returns the file's sha256.

        The file is what `fastv_export.quantization.activations` reads.
        """
        whole: Statistics = {}
        for sample in samples:
            for name, more in load_file(self._path(sample)).items():
                whole[name] = merged(name, whole[name], more) if name in whole else more.astype(_wide(more))
        tensors = means(whole)
        write_atomically(target, save({name: array.astype(np.float32) for name, array in tensors.items()}))
        return sha256(target)

    def _path(self, sample: str) -> Path:
        return self._folder / f"{sample}.safetensors"


def _wide(array: np.ndarray) -> type[np.generic]:
    return np.int64 if array.dtype == np.int64 else np.float64
