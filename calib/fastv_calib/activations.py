"""What the products of a decoder are given, collected sample by sample: for scales of weights of few bits, and ranges.

A sample's statistics are a file of their own until all are merged in the order of the data: sums of floats depend on
their order, and so the result is the same whoever measured a sample, and when.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from torch import nn

from fastv_export import hf
from fastv_runtime.bundle import sha256

SAMPLES = 64
"""Statistics are of the data's first samples: tens of thousands of rows. A sample of a 7B model takes 12 MB."""

Statistics = dict[str, np.ndarray]
"""Of one sample: PRODUCT.sum, .sum_abs, .sum_square (of rows over their root mean square), .max_abs, fp32 [inputs],
.range fp32 [2], .rows i64 [1]."""


class Observer:
    """Looks at what the linear layers of a decoder, and its head, are given."""

    def __init__(self, decoder: Any, head: nn.Module):
        self._first = hf.layers_of(decoder)[0]
        self._products = {
            f"layers.{index}.{name}": module
            for index, layer in enumerate(hf.layers_of(decoder))
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        } | {"head": head}

    @contextmanager
    def observed(self, statistics: Statistics) -> Iterator[None]:
        """Within this context forwards add to the statistics. Products with one input stand under the first of them."""
        seen: set[str] = set()
        last: list[torch.Tensor] = []

        def look(name: str, rows: torch.Tensor) -> None:
            # A layer whose scores are wanted without rotary embedding runs its attention twice: that is no input more.
            if name not in seen:
                seen.add(name)
                if not last or last[0] is not rows:
                    last[:] = [rows]
                    _add(statistics, name, rows)

        handles = [self._first.register_forward_pre_hook(lambda *_: seen.clear())]
        handles += [
            module.register_forward_pre_hook(lambda _, args, name=name: look(name, args[0]))
            for name, module in self._products.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class StatisticsFiles:
    """Statistics on disk, a file a sample, so that an interrupted sweep goes on where it was.

    key: of the measurements that they belong to; files of another key count as missing.
    """

    def __init__(self, folder: Path, key: str):
        self._folder, self._key = folder, key

    def __contains__(self, sample: str) -> bool:
        try:
            with safe_open(self._path(sample), "np") as file:
                return bool((file.metadata() or {}).get("measurements") == self._key)
        except (FileNotFoundError, SafetensorError):
            return False

    def add(self, sample: str, statistics: Statistics) -> None:
        """Keep a sample's statistics; on disk when this returns."""
        self._folder.mkdir(exist_ok=True)
        write_atomically(self._path(sample), save(statistics, {"measurements": self._key}))

    def merge(self, samples: Sequence[str], target: Path) -> str:
        """Write the means over the samples' rows, merged in this order; returns the file's sha256.

        The file is what `fastv_export.activations` reads.
        """
        whole: Statistics = {}
        for sample in samples:
            for name, more in load_file(self._path(sample)).items():
                whole[name] = _merged(name, whole[name], more) if name in whole else more.astype(_wide(more))
        tensors = {}
        for product in [name.removesuffix(".rows") for name in whole if name.endswith(".rows")]:
            rows = whole[f"{product}.rows"][0]
            for kind in ("", "_abs", "_square"):
                tensors[f"{product}.mean{kind}"] = whole[f"{product}.sum{kind}"] / rows
            for kind in ("max_abs", "range"):
                tensors[f"{product}.{kind}"] = whole[f"{product}.{kind}"]
        write_atomically(target, save({name: array.astype(np.float32) for name, array in tensors.items()}))
        return sha256(target)

    def _path(self, sample: str) -> Path:
        return self._folder / f"{sample}.safetensors"


def write_atomically(path: Path, data: bytes) -> None:
    """The file appears whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=path.absolute().parent) as folder:
        staged = Path(folder) / path.name
        staged.write_bytes(data)
        staged.replace(path)


def _add(statistics: Statistics, product: str, values: Float[torch.Tensor, "... I"]) -> None:
    rows = values.detach().flatten(0, -2).float()
    unit = rows * rows.square().mean(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    found = {
        "sum": unit.sum(0),
        "sum_abs": unit.abs().sum(0),
        "sum_square": unit.square().sum(0),
        "max_abs": rows.abs().amax(0),
        "range": torch.stack(torch.aminmax(rows)),
        "rows": torch.tensor([len(rows)]),
    }
    for kind, tensor in found.items():
        name, more = f"{product}.{kind}", tensor.numpy()
        statistics[name] = _merged(name, statistics[name], more) if name in statistics else more


def _merged(name: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    kind = name.rpartition(".")[2]
    if kind == "max_abs":
        return np.maximum(first, second)
    if kind == "range":
        return np.array([min(first[0], second[0]), max(first[1], second[1])], first.dtype)
    return first + second


def _wide(array: np.ndarray) -> type[np.generic]:
    return np.int64 if array.dtype == np.int64 else np.float64
