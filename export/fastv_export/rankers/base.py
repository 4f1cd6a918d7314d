"""What a ranker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape
    from fastv_runtime.config.cuts import Signal

RankerInputs = Mapping[str, "ir.Value"]
"""Inputs of the select graph by name: `hidden` [1,S,D], `prunable` bool [1,S], `length` i64 [1], and the ranker's
signals, `scores` f32 [1,S] say (`fastv_runtime.config.cuts`)."""


@dataclass(frozen=True)
class Seen:
    """What definitions in plain torch look at: the S rows of one prompt that come to a cut."""

    hidden: torch.Tensor
    """[S, D]: after the attention of the scored layer."""
    prunable: torch.Tensor
    """bool [S]: visual tokens, one at least."""
    signals: Mapping[Signal, torch.Tensor]
    """f32, as `fastv_runtime.config.cuts` has them but for the axis of the batch: `scores` [S] say."""

    @property
    def scores(self) -> torch.Tensor:
        """[S]."""
        return self.signals["scores"]


@dataclass(frozen=True)
class Ranker:
    """One way to choose, in ONNX for bundles and in plain torch for golden vectors and calibration.

    Both give ranks, finite where `prunable`; there the highest stay, ties to the lower index. What is said of other
    tokens is not read: they stay. Same inputs, same choice.
    """

    name: str
    """As the option `ranker` takes it."""
    summary: str
    """For help texts and docs/rankers.md: which m of N visual tokens stay."""
    rank: Callable[[Tape, RankerInputs], ir.Value]
    """Writes the operators that make ranks f32 [1, S]: of those that TensorRT 10.3 has, no TopK whose K depends on data
    other than `length`."""
    ranks: Callable[[Seen, int], torch.Tensor]
    """The definition: what is seen of S rows, and how many of them stay -> ranks [S]."""
    signals: tuple[Signal, ...] = ("scores",)
    """What it reads beside states, in the order in which `select` is given it."""
    rotary: bool = True
    """Whether the prefix computes `scores` from queries and keys after rotary embedding, as the model's attention."""
    control: bool = False
    """Measured by a calibration to compare with, and never chosen by one."""
    sorts: bool = False
    """Whether one TopK orders all rows that come to the cut: some targets order only so many."""
    portable: bool = True
    """Whether every engine computes the same ranks. If not, golden vectors have no case for the select graph."""
