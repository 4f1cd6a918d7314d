"""Queries and keys of one attention as they are before rotary embedding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float

from fastv_export.hf import head_width, projections, scaling
from fastv_export.tracing.attention import last_row_scores
from fastv_runtime.errors import UserError


class PreRope:
    """What transformers' attention hands to its rotary embedding: filled in as the attention runs."""

    def __init__(self, attention: Any):
        self._width = head_width(attention)
        self._scaling = scaling(attention)
        self.states: dict[str, torch.Tensor] = {}

    def scores(self) -> Float[torch.Tensor, "1 S"]:
        """FastV's scores, from these."""
        query, key = (self._heads(self.states[letter]) for letter in "qk")
        return last_row_scores(query, key, self._scaling)

    def _heads(self, states: torch.Tensor) -> Float[torch.Tensor, "1 H S Dh"]:
        # A norm per head comes after the heads are split, a projection before.
        return states.reshape(1, states.shape[1], -1, self._width).transpose(1, 2)


@contextmanager
def before_rotary(attention: Any) -> Iterator[PreRope]:
    """Within this context the attention's queries and keys are observed as they enter its rotary embedding."""
    found = PreRope(attention)

    def observe(letter: str) -> Any:
        return lambda module, args, output: found.states.update({letter: output})

    handles = [module.register_forward_hook(observe(letter)) for letter, module in projections(attention).items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_projections(attention: Any, ranker: str, model_type: str) -> None:
    """UserError for a family whose queries and keys are not projected each by a layer of its own."""
    if len(projections(attention)) < 2:
        raise UserError(
            f"`ranker` {ranker}: family {model_type} projects queries and keys in one linear layer, where they cannot "
            "be observed before rotary embedding: use another ranker"
        )
