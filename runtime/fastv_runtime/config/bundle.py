"""A bundle on disk: the manifest's typed model, and opening one with every hash checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from fastv_runtime.config.base import DType, StrictModel, TensorSpec
from fastv_runtime.config.generation_config import GenerationDefaults
from fastv_runtime.config.layouts import VideoLayout, Vision
from fastv_runtime.config.plan import DialectName, Plan
from fastv_runtime.errors import UserError
from fastv_runtime.memory.layout import numpy_dtype

SCHEMA_VERSION = 7
MANIFEST = "bundle.json"
EMBEDDING = "embed_tokens.bin"
GOLDEN = "golden.safetensors"
PROCESSOR = "processor"
END_TO_END = "end_to_end"
"""In what was verified, beside graphs: from token ids and pixels to tokens. Missing where no question fits the plan."""


class GraphSpec(StrictModel):
    """One ONNX file, its inputs and outputs. `file` is relative to the bundle."""

    file: str
    dialect: DialectName
    opset: int
    tensorrt: str | None = None
    """The oldest TensorRT that can build it; None where it is not for TensorRT."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class DecoderConfig(StrictModel):
    """Dimensions of the language model, in its own config's terms."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    gated_mlp: bool
    position_axes: Literal[1, 3] = 1
    """Axes of a position id: 1, or M-RoPE's 3 (time, height, width)."""
    deepstack_layers: int = 0
    """Visual features are added to the hidden states after each of that many first layers (DeepStack)."""


class Tokens(StrictModel):
    """Special token ids."""

    image: int
    """The placeholder that stands in the prompt for one visual token of an image."""
    video: int | None = None
    """The same for a video; None where the model takes none."""
    video_marker: str | None = None
    """What stands for a whole video in the chat template, where that is not the placeholder."""
    stop: tuple[int, ...]


class QuantizationCost(StrictModel):
    """How far a bundle with weights of few bits, as ONNX Runtime's CPU provider computes it, is from the stock model in
    fp32 with its weights as they are stored: asked about an image, then given an answer word by word.
    """

    asked: int
    """Next tokens asked for: the answer's first, and the one after each of its tokens."""
    same: int
    """How many of the likeliest are the stock model's."""
    kl: float
    """Kullback-Leibler divergence of the bundle's next token from the stock model's, in nats, mean of all asked."""
    logits: float
    """Relative difference of logits, as `selftest.difference` has it."""


class FileDigest(StrictModel):
    sha256: str
    size: int

    @field_validator("sha256")
    @classmethod
    def _hex(cls, value: str) -> str:
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise ValueError("not a sha256 digest")
        return value


class Manifest(StrictModel):
    """`bundle.json`. Every other file of the bundle is listed in `files` by its path inside the bundle."""

    schema_version: int
    family: str
    decoder: DecoderConfig
    vision: Vision
    video: VideoLayout | None = None
    plan: Plan
    tokens: Tokens
    generation: GenerationDefaults = GenerationDefaults()
    graphs: dict[str, GraphSpec]
    embedding_dtype: DType
    files: dict[str, FileDigest]
    source: dict[str, str]
    versions: dict[str, str]
    verified: dict[str, float] | None
    """Largest relative difference from transformers with weights rounded as the bundle's are and activations that are
    not, per graph and END_TO_END: whether graphs are right. None if the export did not compare."""
    quantization: QuantizationCost | None = None
    """What quantization itself costs. None where weights have all bits, and where nothing was compared or no question
    fits the plan."""

    @model_validator(mode="after")
    def _all_listed(self) -> Manifest:
        for name in (EMBEDDING, *(graph.file for graph in self.graphs.values())):
            if name not in self.files:
                raise ValueError(f"{name} is not listed in files, so it cannot be checked")
        return self


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, progress: Callable[[int], None] | None = None) -> Bundle:
        """Read the manifest and check the size and sha256 of every file it lists.

        `progress` is called with the number of bytes hashed since its last call.
        Raises UserError for anything that is not a whole, unchanged bundle of a known schema.
        """
        bundle = cls(Path(path), read_manifest(path))
        bundle._check_files(progress)
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

    def _check_files(self, progress: Callable[[int], None] | None) -> None:
        for name, digest in self.manifest.files.items():
            path = self.file(name)
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise UserError(f"{self.path}: {name} lies outside the bundle: export it again")
            if not path.is_file():
                raise UserError(f"{self.path}: {name} is missing: copy the bundle again, or export it again")
            actual_size = path.stat().st_size
            if actual_size != digest.size:
                raise UserError(
                    f"{path}: {actual_size} bytes where the manifest has {digest.size}: "
                    "copy the bundle again, or export it again"
                )
            if sha256(path, progress) != digest.sha256:
                raise UserError(
                    f"{path}: its sha256 is not the manifest's, the file was changed or damaged: "
                    "copy the bundle again, or export it again"
                )


def read_manifest(path: str | Path) -> Manifest:
    """`bundle.json` of the bundle at `path`, validated; the files that it lists are not looked at."""
    path = Path(path)
    file = path / MANIFEST
    if not path.exists():
        raise UserError(f"{path}: no such bundle: give the directory that fastv-export wrote")
    if not file.is_file():
        raise UserError(f"{path}: not a bundle, it has no {MANIFEST}: give the directory that fastv-export wrote")
    try:
        text = file.read_text(encoding="utf-8")
        version = _SchemaVersion.model_validate_json(text).schema_version
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{file}: schema version {version} is newer than this program's {SCHEMA_VERSION}: "
                "upgrade fastv-edge, or export with this version"
            )
        if version < SCHEMA_VERSION:
            raise UserError(f"{file}: schema version {version} is too old (now {SCHEMA_VERSION}): export again")
        return Manifest.model_validate_json(text)
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file: copy the bundle again, or export it again") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise UserError(f"{file}: {where}: {first['msg']}: copy the bundle again, or export it again") from None


class _SchemaVersion(BaseModel):
    schema_version: int


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
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
