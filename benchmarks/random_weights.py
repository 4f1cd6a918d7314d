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
"""Standard deviation of embeddings and biases, the usual initializer range."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint and the tensors in it."""

    file: str
    shapes: Shapes


def plan_shards(shapes: Shapes, width: int, limit: int) -> list[Shard]:
    """Tensors in order, a new shard where the next would pass `limit` bytes; one tensor may pass it alone."""
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = prod(shape) * width
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
    sparse: bool,
    written: Callable[[int], None],
) -> None:
    """Write the shards, and their index if there are several. `sparse` leaves the values as holes, read as zeros.

    `written` is called with the bytes of each block as it is written.
    """
    stored, kind = DTYPES[dtype]
    width = np.dtype(kind).itemsize
    noise = Noise(seed, kind)
    for shard in shards:
        header, size = _header(shard.shapes, stored, width)
        with (folder / shard.file).open("wb") as file:
            file.write(header)
            if sparse:
                file.truncate(len(header) + size)
                written(size)
                continue
            for name, shape in shard.shapes.items():
                for block in noise.blocks(name, shape):
                    written(file.write(block.tobytes()))
    if len(shards) > 1:
        total = sum(prod(shape) for shard in shards for shape in shard.shapes.values())
        index = {
            "metadata": {"total_parameters": total, "total_size": total * width},
            "weight_map": {name: shard.file for shard in shards for name in shard.shapes},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header(shapes: Shapes, stored: str, width: int) -> tuple[bytes, int]:
    """A safetensors header, padded to a multiple of eight bytes, and the size of the data behind it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * width
        entries[name] = {"dtype": stored, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, end


class Noise:
    """Values for any tensor from one block of normal noise."""

    def __init__(self, seed: int, kind: Any):
        self._generator = np.random.default_rng(seed)
        self._base = self._generator.standard_normal(BLOCK, dtype=np.float32)
        self._kind = kind

    def blocks(self, name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """The values of one tensor in row-major order, at most BLOCK at a time."""
        mean, deviation = scale(name, shape)
        left, start = prod(shape), int(self._generator.integers(BLOCK))
        first = self._base[start : start + left]
        yield self._scaled(first, mean, deviation)
        left -= first.size
        tile = self._scaled(self._base[:left], mean, deviation)
        while left:
            yield tile[:left]
            left -= min(left, tile.size)

    def _scaled(self, noise: np.ndarray, mean: float, deviation: float) -> np.ndarray:
        return (noise * np.float32(deviation) + np.float32(mean)).astype(self._kind)


def scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a parameter, from its name and shape.

    Norm weights are about one, biases and embeddings small, matrices 1/sqrt(fan in): activations stay near unit size
    from layer to layer, so a forward in fp16 neither overflows nor vanishes.
    """
    leaf = name.rpartition(".")[2]
    if len(shape) <= 1:
        return (1.0, 0.1) if leaf in ("weight", "running_var") else (0.0, SMALL)
    if len(shape) == 2 and ("embed" in name or "wte" in name):
        return 0.0, SMALL
    return 0.0, 1 / sqrt(prod(shape[1:]))
