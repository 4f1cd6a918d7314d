"""What transformers' layers hand to their attention function, and functions of our own in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from fastv_export.hf.parts import layer_number
from fastv_runtime.errors import UserError

HARMLESS = {
    "cache_position",
    "dropout",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "position_ids",
    "return_dict",
    "sliding_window",
    "use_cache",
}
"""What layers hand to an attention function beside what `Attention` holds, and no graph needs. A sliding window
is `Attention.window`."""


BOUNDARIES = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"})
"""What layers of towers that take images of any size hand over as well; those of keys are those of queries."""


Attend = Callable[["Attention"], torch.Tensor]
"""An attention: what a layer hands it -> [1, S, Hq, Dh]."""


@dataclass(frozen=True)
class Attention:
    """What transformers' layers hand to their attention function."""

    module: nn.Module
    query: Float[torch.Tensor, "1 Hq S Dh"]
    key: Float[torch.Tensor, "1 Hkv C Dh"]
    """After the cache; heads are not repeated."""
    value: Float[torch.Tensor, "1 Hkv C Dh"]
    mask: torch.Tensor | None
    scaling: float
    window: int | None
    """How many rows back the layer means to look, itself counted; None if all."""
    extra: Mapping[str, Any]
    """What else the caller of the layer, or the layer itself, passed on, without what is None."""

    @property
    def layer(self) -> int:
        """Number of the decoder layer."""
        return layer_number(self.module)

    @property
    def boundaries(self) -> Any:
        """Where a tower's sequence is cut, whatever object was given to the tower for that; None in a decoder."""
        return self.extra.get("cu_seq_lens_q")


def register_attention(name: str, attend: Attend, *, known: frozenset[str] = frozenset()) -> None:
    """Make an attention known to transformers under a name. known: what it reads of `Attention.extra`.

    A layer that hands over anything else than it knows is refused by what it is: a soft cap, sinks.
    """
    from transformers import AttentionInterface

    def function(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        **extra: Any,
    ) -> tuple[torch.Tensor, None]:
        given = {name: value for name, value in extra.items() if value is not None and name not in HARMLESS}
        unknown = sorted(given.keys() - known)
        if unknown:
            raise UserError(
                f"{type(module).__name__} hands its attention {', '.join(unknown)}, which no graph here computes: "
                "this model cannot be exported"
            )
        window = extra.get("sliding_window")
        return attend(Attention(module, query, key, value, attention_mask, scaling, window, given)), None

    AttentionInterface.register(name, function)
