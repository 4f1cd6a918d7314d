"""What a ranker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.tape import Tape

RankerInputs = Mapping[str, ir.Value]
"""Inputs of the select graph by name: `hidden` [1,S,D], `scores` f32 [1,S], `prunable` bool [1,S], `length` i64 [1]."""


@dataclass(frozen=True)
class Ranker:
    """One way to choose. Same inputs, same choice.

    rank: writes the operators that make ranks f32 [1, S], finite where `prunable`; there the highest stay, ties to the
    lower index. What it says of other tokens is not read: they stay.
    """

    name: str
    rank: Callable[[Tape, RankerInputs], ir.Value]
    rotary: bool = True
    """Whether the prefix computes `scores` from queries and keys after rotary embedding, as the model's attention."""
