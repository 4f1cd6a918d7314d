"""Queries and keys of one attention as they are before rotary embedding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from fastv_export.attention import last_row_scores
from fastv_runtime.errors import UserError


class Unrotated:
    """What transformers' attention hands to its rotary embedding: filled in as the attention runs."""

    def __init__(self, attention: Any):
        self._width: int = attention.head_dim
        self._scaling: float = attention.scaling
        self.states: dict[str, torch.Tensor] = {}

    def scores(self) -> Float[torch.Tensor, "1 S"]:
        """FastV's scores, from these."""
        query, key = (self._heads(self.states[letter]) for letter in "qk")
        return last_row_scores(query, key, self._scaling)

    def _heads(self, states: torch.Tensor) -> Float[torch.Tensor, "1 H S Dh"]:
        # A norm per head comes after the heads are split, a projection before.
        return states.reshape(1, states.shape[1], -1, self._width).transpose(1, 2)


@contextmanager
def before_rotary(attention: Any) -> Iterator[Unrotated]:
    """Within this context the attention's queries and keys are observed as they enter its rotary embedding."""
    found = Unrotated(attention)

    def observe(letter: str) -> Any:
        return lambda module, args, output: found.states.update({letter: output})

    handles = [_last(attention, letter).register_forward_hook(observe(letter)) for letter in "qk"]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_projections(attention: Any, ranker: str, model_type: str) -> None:
    """UserError for a family whose queries and keys are not projected each by a layer of its own."""
    if not all(isinstance(getattr(attention, f"{letter}_proj", None), nn.Module) for letter in "qk"):
        raise UserError(
            f"--ranker {ranker}: family {model_type} projects queries and keys in one product, where they cannot be "
            "observed before rotary embedding: use another ranker"
        )


def _last(attention: Any, letter: str) -> nn.Module:
    """The module whose output goes to the rotary embedding: the projection, or the norm that follows it."""
    norm = getattr(attention, f"{letter}_norm", None)
    return norm if isinstance(norm, nn.Module) else getattr(attention, f"{letter}_proj")
