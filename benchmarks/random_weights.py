"""Random tensors streamed into safetensors shards: the header first, then the values, block by block.

The values are one block of normal noise, drawn once, tiled through every tensor from an offset of its own and scaled.
That costs a copy instead of a draw, so a 26 GB checkpoint is written at the speed of the disk. The block holds a prime
number of values: no row length divides it, so the rows of a matrix still differ.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, tuple[str, Any]] = {
    "fp16": ("F16", np.float16),
    "bf16": ("BF16", ml_dtypes.bfloat16),
    "fp32": ("F32", np.float32),
}
"""By the name on the command line: safetensors' name and the numpy type."""

BLOCK = 4194301
"""Values held at once: the largest prime below 2^22, so 16 MiB in fp32."""

SMALL = 0.02
"""Standard deviation of tables and biases, the usual initializer range."""

COUNTER = "num_batches_tracked"
"""The one integer that checkpoints hold: the step count of a batch norm, zero here."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint and the tensors in it."""

    file: str
    shapes: Shapes


def plan_shards(shapes: Shapes, dtype: str, limit: int) -> list[Shard]:
    """Tensors in order, a new shard where the next would pass `limit` bytes; one tensor may pass it alone."""
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = nbytes(name, shape, dtype)
        if groups[-1] and filled + size > limit:
            groups.append({})
            filled = 0
        groups[-1][name] = shape
        filled += size
    if len(groups) == 1:
        return [Shard("model.safetensors", groups[0])]
    return [Shard(f"model-{i:05}-of-{len(groups):05}.safetensors", group) for i, group in enumerate(groups, 1)]


def write_shards(
    folder: Path,
    shards: list[Shard],
    dtype: str,
    seed: int,
    *,
    sparse: bool = False,
    written: Callable[[int], None] = lambda count: None,
) -> None:
    """Write the shards, and their index if there are several. `sparse` leaves the values as holes, read as zeros.

    `written` is called with the bytes of each block as it is written.
    """
    noise = None if sparse else Noise(seed)
    for shard in shards:
        header, size = _header(shard.shapes, dtype)
        with (folder / shard.file).open("wb") as file:
            file.write(header)
            if noise is None:
                file.truncate(len(header) + size)
                written(size)
                continue
            for name, shape in shard.shapes.items():
                for block in noise.blocks(name, shape, _element(name, dtype)[1]):
                    written(file.write(block.view(np.uint8).data))
    if len(shards) > 1:
        sizes = [(name, shape) for shard in shards for name, shape in shard.shapes.items()]
        index = {
            "metadata": {
                "total_parameters": sum(prod(shape) for _, shape in sizes),
                "total_size": sum(nbytes(name, shape, dtype) for name, shape in sizes),
            },
            "weight_map": {name: shard.file for shard in shards for name in shard.shapes},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def nbytes(name: str, shape: tuple[int, ...], dtype: str) -> int:
    """Bytes that a tensor takes in a checkpoint of `dtype`."""
    return prod(shape) * int(np.dtype(_element(name, dtype)[1]).itemsize)


def _element(name: str, dtype: str) -> tuple[str, Any]:
    return ("I64", np.int64) if name.endswith(COUNTER) else DTYPES[dtype]


def _header(shapes: Shapes, dtype: str) -> tuple[bytes, int]:
    """A safetensors header, padded to a multiple of eight bytes, and the size of the data behind it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + nbytes(name, shape, dtype)
        entries[name] = {"dtype": _element(name, dtype)[0], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, end


class Noise:
    """Values for any tensor from one block of normal noise."""

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)
        self._base = self._generator.standard_normal(BLOCK, dtype=np.float32)

    def blocks(self, name: str, shape: tuple[int, ...], kind: Any) -> Iterator[np.ndarray]:
        """The values of one tensor in row-major order, at most BLOCK at a time, one-dimensional."""
        mean, deviation = scale(name, shape)
        left, start = prod(shape), int(self._generator.integers(BLOCK))
        first = self._base[start : start + left]
        yield _scaled(first, mean, deviation, kind)
        left -= first.size
        tile = _scaled(self._base[:left], mean, deviation, kind)
        while left:
            yield tile[:left]
            left -= min(left, tile.size)


def _scaled(noise: np.ndarray, mean: float, deviation: float, kind: Any) -> np.ndarray:
    values = noise * np.float32(deviation)
    values += np.float32(mean)
    return values.astype(kind)


def scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a parameter, from its name and shape.

    Norm weights are about one, layer scales a half, biases and tables small, matrices 1/sqrt(fan in): activations
    stay near unit size from layer to layer, so that a forward in fp16 neither overflows nor vanishes.
    """
    leaf = name.rpartition(".")[2]
    axes = [size for size in shape if size > 1]
    if leaf == COUNTER:
        return 0.0, 0.0
    if leaf == "gamma" or leaf.startswith("lambda_"):
        return 0.5, 0.1
    if len(axes) <= 1:
        return (1.0, 0.1) if leaf in ("weight", "running_var") else (0.0, SMALL)
    if len(axes) == 2 and ("embed" in name or "wte" in name):
        return 0.0, SMALL
    return 0.0, 1 / sqrt(prod(shape[1:]))
