"""`bundle.json` as typed models: what a bundle says of itself, every number within what a machine can hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fastv_runtime.config.base import Count, DType, Size, StrictModel, TensorSpec
from fastv_runtime.config.generation_config import GenerationDefaults, TokenId
from fastv_runtime.config.layouts import VideoLayout, Vision
from fastv_runtime.config.plan import DialectName, Plan
from fastv_runtime.integrity.paths import BundlePath, check_distinct

SCHEMA_VERSION = 9
MANIFEST = "bundle.json"
EMBEDDING = "embed_tokens.bin"
GOLDEN = "golden.safetensors"
PROCESSOR = "processor"
MOST_LAYERS = 1024
END_TO_END = "end_to_end"
"""In what was verified, beside graphs: from token ids and pixels to tokens. Missing where no question fits the plan."""


class GraphSpec(StrictModel):
    """One ONNX file, or one of OpenVINO's IR, its inputs and outputs. `file` is relative to the bundle.

    Of a graph of the dialect `openvino`, `past_*` and `present_*` are states that it keeps itself, and `write_index` is
    how many keys they have."""

    file: BundlePath
    dialect: DialectName
    opset: int = Field(ge=1, le=1000)
    tensorrt: str | None = Field(default=None, pattern=r"^\d{1,4}(\.\d{1,4}){0,3}$")
    """The oldest TensorRT that can build it; None where it is not for TensorRT."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def weights_file(self) -> str:
        """The file beside it that has its weights, where it has any."""
        return self.file.removesuffix("xml") + "bin" if self.file.endswith(".xml") else f"{self.file}.data"


class DecoderConfig(StrictModel):
    """Dimensions of the language model, in its own config's terms."""

    hidden_size: Size
    num_hidden_layers: int = Field(ge=1, le=MOST_LAYERS)
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    intermediate_size: Size
    vocab_size: Size
    gated_mlp: bool
    position_axes: Literal[1, 3] = 1
    """Axes of a position id: 1, or M-RoPE's 3 (time, height, width)."""
    deepstack_layers: int = Field(default=0, ge=0, le=MOST_LAYERS)
    """Visual features are added to the hidden states after each of that many first layers (DeepStack)."""

    @model_validator(mode="after")
    def _whole_groups(self) -> DecoderConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}: must be a multiple of num_key_value_heads, "
                f"{self.num_key_value_heads}"
            )
        if self.deepstack_layers > self.num_hidden_layers:
            raise ValueError(
                f"deepstack_layers is {self.deepstack_layers}: must be at most num_hidden_layers, "
                f"{self.num_hidden_layers}"
            )
        return self


class Tokens(StrictModel):
    """Special token ids."""

    image: TokenId
    """The placeholder that stands in the prompt for one visual token of an image."""
    video: TokenId | None = None
    """The same for a video; None where the model takes none."""
    video_marker: str | None = Field(default=None, min_length=1, max_length=1000)
    """What stands for a whole video in the chat template, where that is not the placeholder."""
    stop: tuple[TokenId, ...]


class QuantizationCost(StrictModel):
    """How far a bundle with weights of few bits, as ONNX Runtime or OpenVINO computes it on a CPU, is from the stock
    model in fp32 with its weights as they are stored: asked about an image, then given an answer word by word.
    """

    asked: Size
    """Next tokens asked for: the answer's first, and the one after each of its tokens."""
    same: Count
    """How many of the likeliest are the stock model's."""
    kl: float = Field(allow_inf_nan=False)
    """Kullback-Leibler divergence of the bundle's next token from the stock model's, in nats, mean of all asked."""
    logits: float = Field(ge=0, allow_inf_nan=False)
    """Relative difference of logits, as `selftest.difference` has it."""


class FileDigest(StrictModel):
    """What a file's content must be."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0, le=2**53)


class Manifest(StrictModel):
    """`bundle.json`. Every other file of the bundle is listed in `files` by its path inside the bundle."""

    schema_version: int
    family: str = Field(min_length=1, max_length=1000)
    decoder: DecoderConfig
    vision: Vision
    video: VideoLayout | None = None
    plan: Plan
    tokens: Tokens
    generation: GenerationDefaults = GenerationDefaults()
    graphs: dict[str, GraphSpec]
    embedding_dtype: DType
    files: dict[BundlePath, FileDigest]
    source: dict[str, str]
    versions: dict[str, str]
    verified: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None
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
        check_distinct(self.files)
        return self
