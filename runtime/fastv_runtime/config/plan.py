"""How a model is pruned, of what its weights are, and the one rule of where a plan cuts the decoder. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from fastv_runtime.config.base import Size, StrictModel, TokenCount
from fastv_runtime.config.cuts import MOST_CUTS, Cut

DialectName = Literal["onnx", "ort", "openvino", "trt", "trt-legacy"]
Length = Literal["fixed", "exact"]
TEXT_STEP = 32
"""Tokens between fixed pruned lengths, where nobody says otherwise."""
SHARE = 0.9
"""Of attention to visual tokens, where nobody says which share is to be held."""
KEEP_STEPS = 16
"""Counts of kept visual tokens that a share chooses among, where nobody says otherwise."""
Part = Literal["vision", "prefix", "first", "last", "attention", "values", "head"]
"""Towers; layers before the last cut (which decide what is pruned); the decoder's first and last layer; of its layers
the products around attention, and of those the one that makes values; its head."""
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


@dataclass(frozen=True)
class Stage:
    """One graph of decoder layers, of those that a plan's cuts make of the decoder."""

    index: int
    """0 for the graph that is given the prompt."""
    graph: str
    symbol: str
    """Of the axis of its rows, in the specs of its tensors."""
    start: int
    """The first layer whose attention, and so whose cache, is in it."""
    stop: int | None
    """The layer after the last such; None for the decoder's end."""
    cut: Cut | None
    """Where it ends; None where it ends with the head."""
    select: str | None
    """The graph that picks the rows that it is given; None for the first."""


class Plan(StrictModel):
    """How the model is pruned and how long its inputs may be (lengths in tokens).

    `cuts` are FastV's, from the first layer to the last; none means the unsplit, unpruned baseline.
    """

    cuts: tuple[Cut, ...] = Field(max_length=MOST_CUTS)
    length: Length
    precision: Precision
    weights: Weights | None = None
    """None: weights are of `precision`, as activations are."""
    max_text: TokenCount
    max_visual: TokenCount
    max_new_tokens: TokenCount
    text_step: TokenCount = TEXT_STEP
    """Fixed pruned lengths make room for text in multiples of it: what is kept beyond `keep` is fewer tokens."""
    share: float | None = Field(default=None, gt=0, lt=1, allow_inf_nan=False)
    """Of each prompt a cut leaves as few visual tokens as hold this share of the attention that those before it get, by
    `scores`, and `keep` at most. None: `keep` of every prompt."""
    keep_steps: TokenCount = KEEP_STEPS
    """By a share so many counts are kept at most: 1/keep_steps, 2/keep_steps, ... of a prompt's visual tokens."""

    @model_validator(mode="after")
    def _ordered(self) -> Plan:
        for before, after in pairwise(self.cuts):
            if after.layer <= before.layer:
                raise ValueError(f"cuts: layer {after.layer} does not come after layer {before.layer}")
            if after.keep > before.keep:  # equal is what a `keep` of one prompt makes of cuts that leave less
                raise ValueError(f"cuts: keep {after.keep:g} at layer {after.layer} is above {before.keep:g}")
        return self

    @model_validator(mode="after")
    def _scored(self) -> Plan:
        if self.share is not None and not self.cuts:
            raise ValueError(f"share: {self.share:g} of attention is held at cuts, and there are none")
        for cut in self.cuts:
            if self.share is not None and "scores" not in cut.signals:
                raise ValueError(f"share: is of scores, which ranker {cut.ranker}, at layer {cut.layer}, does not read")
        return self

    @property
    def prunes(self) -> bool:
        """Whether the decoder is split; else it is one graph."""
        return bool(self.cuts)

    @property
    def keep(self) -> float:
        """Fraction of visual tokens that are left after the last cut."""
        return self.cuts[-1].keep if self.cuts else 1.0

    @property
    def cut_layers(self) -> tuple[int, ...]:
        """K of each cut."""
        return tuple(cut.layer for cut in self.cuts)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Graphs that have layers of the decoder, first to last: `prefix`, `middle`, `middle_2`, ..., `suffix`."""
        if not self.cuts:
            return (Stage(0, "decoder", "S", 0, None, None, None),)
        last = len(self.cuts)
        bounds = (0, *self.cut_layers, None)
        return tuple(
            Stage(
                index,
                "prefix" if index == 0 else "suffix" if index == last else numbered("middle", index),
                "S" if index == 0 else numbered("M", index),
                bounds[index] or 0,
                bounds[index + 1],
                None if index == last else self.cuts[index],
                None if index == 0 else numbered("select", index),
            )
            for index in range(last + 1)
        )

    @property
    def decoder_graphs(self) -> tuple[str, ...]:
        """Graphs that have layers of the decoder, first to last."""
        return tuple(stage.graph for stage in self.stages)

    @property
    def selects(self) -> tuple[str, ...]:
        """Graphs between them, one a cut."""
        return tuple(numbered("select", index) for index in range(1, len(self.stages)))

    def stage(self, graph: str) -> Stage:
        """The stage of a graph of decoder layers. Raises KeyError for other graphs."""
        return {stage.graph: stage for stage in self.stages}[graph]

    def layers(self, graph: str, count: int) -> range:
        """Layers of a decoder of `count` whose attention, and so whose cache, is in a graph."""
        stage = self.stage(graph)
        return range(stage.start, count if stage.stop is None else stage.stop)

    def first_layer(self, graph: str) -> int:
        """Number of the layer that a graph calls its first: after a cut that is the scored layer, with its MLP alone.

        Of a graph without layers of the decoder, 0.
        """
        start = next((stage.start for stage in self.stages if stage.graph == graph), 0)
        return max(start - 1, 0)

    def graph_of(self, layer: int, *, attention: bool) -> str:
        """The graph that has a layer's attention, or the rest of that layer."""
        after = layer if attention else layer + 1  # the rest of a scored layer is on the rows that are left
        return next(stage.graph for stage in reversed(self.stages) if stage.start <= after)


def numbered(name: str, index: int) -> str:
    """The name of the first, second, ... of a kind: `select`, `select_2`, ..."""
    return name if index == 1 else f"{name}_{index}"
