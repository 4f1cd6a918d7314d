"""A transformers checkpoint on disk, read one tensor at a time and never as a whole."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open

from fastv_export.checkpoint.foreign import check_form
from fastv_export.checkpoint.json_files import parse_object, read_object
from fastv_export.checkpoint.pickled import PICKLES, conversion
from fastv_export.checkpoint.processor_files import PROCESSOR_FILES
from fastv_export.checkpoint.reading import reading
from fastv_runtime.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
GENERATION = "generation_config.json"
DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
"""Element types of weights that can be read, by safetensors' names."""
STORED_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The same as torch has them."""
SETTINGS = (*(name for name in PROCESSOR_FILES if name.endswith(".json") and name != "tokenizer.json"), GENERATION)
"""Files that are an object of JSON each, where they are there. The tokenizer's own reader judges its file."""


class NotFinite(UserError):
    """Weights that are no numbers; made from where they are."""

    def __init__(self, where: str):
        super().__init__(where)
        self._where = where

    def __str__(self) -> str:
        return (
            f"{self._where} has values that are NaN or infinite: the checkpoint is damaged, download it again, or ask "
            "whoever trained it"
        )


def finite(values: torch.Tensor) -> bool:
    """Whether values are numbers, all of them; there must be one."""
    return bool(torch.stack(torch.aminmax(values)).isfinite().all())


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: bytes [start, stop) of a safetensors file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values, as `dtype`."""
        return prod(self.shape) * int(np.dtype(DTYPES[self.dtype]).itemsize)

    def read(self) -> np.ndarray:
        """The tensor's values."""
        data = np.empty(self.nbytes, np.uint8)
        self.read_into(data)
        values: np.ndarray = data.view(DTYPES[self.dtype])
        return values.reshape(self.shape)

    def read_into(self, buffer: UInt8[np.ndarray, " nbytes"]) -> None:
        """The tensor's bytes, as stored. Read by offset: mapped pages would stay resident for the whole export.

        Raises NotFinite for values that are NaN or infinite: whatever is computed from them would be blamed instead.
        """
        done = 0
        with self.file.open("rb", buffering=0) as file:
            while done < self.nbytes:  # one call reads 2 GiB at most
                count = os.preadv(file.fileno(), [buffer[done:].data], self.start + done)
                if count == 0:
                    raise UserError(f"{self.file}: truncated, it ends before tensor {self.name}: download it again")
                done += count
        if done and not finite(torch.from_numpy(buffer).view(STORED_TYPES[self.dtype])):
            raise NotFinite(f"{self.file}: tensor {self.name}")

    def rows(self, start: int, stop: int) -> StoredTensor:
        """Rows [start, stop) along the first axis; only their bytes are read."""
        row = (self.stop - self.start) // self.shape[0]
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            start=self.start + start * row,
            stop=self.start + stop * row,
        )

    def rearranged(
        self, shape: tuple[int, ...], view: Callable[[np.ndarray], np.ndarray], dtype: str | None = None
    ) -> StoredTensor:
        """What `view` makes of the values: an array of `shape`, made anew each time the tensor is read.

        dtype: the element type that `view` returns, by safetensors' name; None means the one that is stored.
        """
        return RearrangedTensor(self.name, self.file, dtype or self.dtype, shape, self.start, self.stop, self, view)


@dataclass(frozen=True)
class RearrangedTensor(StoredTensor):
    """A tensor that is stored in another layout than the model's: read whole, then turned into it."""

    source: StoredTensor
    view: Callable[[np.ndarray], np.ndarray]

    def read_into(self, buffer: UInt8[np.ndarray, " nbytes"]) -> None:
        buffer.view(DTYPES[self.dtype]).reshape(self.shape)[...] = self.view(self.source.read())

    def rows(self, start: int, stop: int) -> StoredTensor:
        view = self.view
        shape = (stop - start, *self.shape[1:])
        return self.source.rearranged(shape, lambda values: view(values)[start:stop], self.dtype)


class Checkpoint:
    """A checkpoint directory: its config and the tensors of its safetensors files, by their stored names."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            raise UserError(f"{path}: no such checkpoint: give a directory that save_pretrained wrote, or a hub id")
        check_form(self.path)
        if not (self.path / "config.json").is_file():
            raise UserError(
                f"{path}: not a checkpoint, it has no config.json: give a directory that save_pretrained wrote"
            )
        for name in SETTINGS:
            if (self.path / name).is_file():
                read_object(self.path / name)

    @cached_property
    def config(self) -> Any:
        """transformers' config object."""
        from transformers import AutoConfig

        self.model_type()  # says clearly what AutoConfig says at length
        with reading(self.path / "config.json"):
            return AutoConfig.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)

    def model_type(self) -> str:
        """`model_type` of config.json, before transformers has to know it."""
        file = self.path / "config.json"
        model_type = read_object(file).get("model_type")
        if not model_type:
            raise UserError(f"{file}: it names no model_type: give a directory that save_pretrained wrote")
        return str(model_type)

    def named_weights(self) -> str | None:
        """The file of weights, or their index, that config.json names (`transformers_weights`); mostly it names none.

        Raises UserError for what transformers does not open either.
        """
        file = self.path / "config.json"
        name = read_object(file).get("transformers_weights")
        if name is None:
            return None
        if not isinstance(name, str) or not name.endswith((".safetensors", INDEX_SUFFIX)):
            raise UserError(f"{file}: transformers_weights {name!r} is no safetensors file and no index of such files")
        if not _inside(name):
            raise UserError(f"{file}: transformers_weights {name!r} lies outside the checkpoint: copy the file into it")
        return name

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files that transformers' `from_pretrained` would choose.

        What config.json names, else `model.safetensors`, else what the index lists.
        """
        source = self._weights()
        sharded = source.name.endswith(INDEX_SUFFIX)
        names = shard_names(source) if sharded else [str(source.relative_to(self.path))]
        for name in names:
            if not (self.path / name).is_file():
                raise UserError(f"{self.path}: {name} is missing: download the checkpoint again")
        return tuple(self.path / name for name in names)

    @property
    def ignored(self) -> tuple[Path, ...]:
        """Weights that lie beside those of `files` and are not read: an older save, most likely."""
        others = [self.path / SINGLE, self.path / INDEX]
        if others[1].is_file() and others[1] != self._weights():
            with suppress(UserError):  # nobody reads it
                others += [self.path / name for name in shard_names(others[1])]
        return tuple(file for file in others if file.is_file() and file not in (self._weights(), *self.files))

    def _weights(self) -> Path:
        """The one file, or the index."""
        named = self.named_weights()
        if named is not None:
            return self.path / named
        for name in (SINGLE, INDEX):
            if (self.path / name).is_file():
                return self.path / name
        if any(self.path.glob(PICKLES)):
            raise UserError(
                f"{self.path}: no safetensors weights, only pickles, which are not opened here: convert them with "
                f"{conversion(self.path)}"
            )
        raise UserError(
            f"{self.path}: no safetensors weights: convert them with "
            "model.save_pretrained(directory) of a current transformers"
        )

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Every stored tensor by its stored name; UserError for a name that two files have."""
        found: dict[str, StoredTensor] = {}
        for file in self.files:
            for tensor in _read_header(file):
                other = found.setdefault(tensor.name, tensor)
                if other is not tensor:
                    raise UserError(
                        f"{file}: tensor {tensor.name} is in {other.file.name} as well: download the checkpoint again"
                    )
        return found


def shard_names(index: Path) -> list[str]:
    """Names of the files that an index of sharded weights lists, sorted; UserError for names of other places."""
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{index}: no index of weights, it has no object weight_map: download it again")
    for tensor, name in shards.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or not _inside(name):
            raise UserError(
                f"{index}: weight_map has {name!r} for {tensor}, which is no safetensors file beside it: "
                "download it again"
            )
    return sorted(set(shards.values()))


def _inside(name: str) -> bool:
    """Whether a name is that of a file in the directory itself. It may be a link, as in the hub's cache."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and name.isprintable()


def _read_header(file: Path) -> list[StoredTensor]:
    """Tensors of one safetensors file: 8 bytes of length, a JSON header, then the data."""
    try:
        # The library judges: offsets that leave gaps or overlap, shapes that do not fill their bytes, files cut short.
        with safe_open(file, "np"):
            pass
    except (SafetensorError, OSError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ").replace("`", "'")
        raise UserError(f"{file}: truncated, or not a safetensors file ({reason}): download it again") from None
    with file.open("rb") as stream:
        base = 8 + struct.unpack("<Q", stream.read(8))[0]
        header = parse_object(stream.read(base - 8), file)  # of a key that stands twice the library takes the last
    header.pop("__metadata__", None)
    return [
        StoredTensor(name, file, each["dtype"], tuple(each["shape"]), *(base + end for end in each["data_offsets"]))
        for name, each in header.items()
    ]
