"""What a ranker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from fastv_export.graphs.tape import Tape

RankerInputs = Mapping[str, "ir.Value"]
"""Inputs of the select graph by name: `hidden` [1,S,D], `scores` f32 [1,S], `prunable` bool [1,S], `length` i64 [1]."""


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
    ranks: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
    """The definition: scores f32 [S], hidden f32 [S, D], prunable bool [S] (one at least) and length -> ranks [S]."""
    rotary: bool = True
    """Whether the prefix computes `scores` from queries and keys after rotary embedding, as the model's attention."""
    control: bool = False
    """Measured by a calibration to compare with, and never chosen by one."""
    portable: bool = True
    """Whether every engine computes the same ranks. If not, golden vectors have no case for the select graph."""
