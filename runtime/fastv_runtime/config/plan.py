"""How a model is pruned, of what its weights are, and the one rule of where a plan cuts the decoder. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fastv_runtime.config.base import Size, StrictModel, TokenCount

DialectName = Literal["onnx", "ort", "trt", "trt-legacy"]
Length = Literal["fixed", "exact"]
TEXT_STEP = 32
"""Tokens between fixed pruned lengths, where nobody says otherwise."""
Part = Literal["vision", "prefix", "first", "last", "attention", "values", "head"]
"""Towers; layers before K (which decide what is pruned); the decoder's first and last layer; of its layers the products
around attention, and of those the one that makes values; its head."""
Precision = Literal["float32", "float16", "bfloat16"]
"""Element type of weights and activations; scores and logits are fp32 in any case."""


class Weights(StrictModel):
    """Weights of products in fewer bits than activations.

    `block` consecutive inputs of an output share a scale; None means all of them.
    """

    bits: Literal[4, 8]
    block: Size | None
    wide: tuple[Part, ...] = ()
    """Parts that keep 8 bits where others have 4."""
    static: bool = False
    """What products of the decoder are given is rounded as their weights are, in ranges that a calibration saw, or for
    floating-point values a text."""
    floating: bool = False
    """Values are floating point: fp8 (E4M3) and nvfp4 (E2M1 in blocks of 16, whose scales are E4M3); else integers."""

    @property
    def name(self) -> str:
        """As the option `precision` of an export has it, whatever the blocks are."""
        return ("nvfp4" if self.bits == 4 else "fp8") if self.floating else f"int{self.bits}"


class Plan(StrictModel):
    """How the model is pruned and how long its inputs may be (lengths in tokens).

    `layer` is FastV's K; None means the unsplit, unpruned baseline. `keep` is the fraction of visual tokens kept.
    """

    layer: Size | None
    keep: float = Field(gt=0, le=1, allow_inf_nan=False)
    ranker: str = Field(min_length=1, max_length=1000)
    """How the visual tokens that stay are chosen: the select graph does it, this is its name."""
    length: Length
    precision: Precision
    weights: Weights | None = None
    """None: weights are of `precision`, as activations are."""
    max_text: TokenCount
    max_visual: TokenCount
    max_new_tokens: TokenCount
    text_step: TokenCount = TEXT_STEP
    """Fixed pruned lengths make room for text in multiples of it: what is kept beyond `keep` is fewer tokens."""

    @property
    def prunes(self) -> bool:
        """Whether the decoder is split at `layer`; else it is one graph."""
        return self.layer is not None

    @property
    def split(self) -> int:
        """K, of a plan that prunes."""
        if self.layer is None:
            raise ValueError("this plan does not prune: it has no layer to split at")
        return self.layer

    @property
    def scored_layer(self) -> int:
        """Number of the layer whose attention scores visual tokens: K-1. The cut is behind that attention."""
        return self.split - 1

    @property
    def decoder_graphs(self) -> tuple[str, ...]:
        """Graphs that have layers of the decoder, first to last."""
        return ("prefix", "suffix") if self.prunes else ("decoder",)

    def layers(self, graph: str, count: int) -> range:
        """Layers of a decoder of `count` whose attention, and so whose cache, is in a graph."""
        return {"prefix": range(self.layer or 0), "suffix": range(self.layer or 0, count)}.get(graph, range(count))

    def first_layer(self, graph: str) -> int:
        """Number of the layer that a graph calls its first: a suffix begins with the MLP of the scored layer."""
        return self.scored_layer if graph == "suffix" else 0

    def graph_of(self, layer: int, *, attention: bool) -> str:
        """The graph that has a layer's attention, or the rest of that layer."""
        if not self.prunes:
            return "decoder"
        return "prefix" if layer < self.scored_layer or (layer == self.scored_layer and attention) else "suffix"
