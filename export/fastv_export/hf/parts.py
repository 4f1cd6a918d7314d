"""What decoders and their layers consist of, by transformers' names, and layers with a part left out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import nn

from fastv_export.hf.signatures import CACHE, changed, keyword

DECODER_PARTS = ("embed_tokens", "layers", "norm", "rotary_emb")


LAYER_PARTS = ("input_layernorm", "mlp", "post_attention_layernorm", "self_attn")
"""All that a layer consists of: two norms, an attention and an MLP. Another part would be lost where layers are cut."""


def check_decoder(decoder: Any) -> None:
    """UserError where a decoder, its layers or their attention are not what this module relies on.

    Then transformers has changed: unseen, a keyword that it renamed would vanish in the `**kwargs` of a layer.
    What a decoder may not have is `fastv_export.support`'s to say.
    """
    for name in DECODER_PARTS:
        if not hasattr(decoder, name):
            raise changed(f"{type(decoder).__name__} has no {name}")
    for names in (("inputs_embeds",), ("position_ids",), ("use_cache",), CACHE):
        keyword(decoder, names)
    for layer in decoder.layers:
        missing = [name for name in LAYER_PARTS if not hasattr(layer, name)]
        if missing:
            raise changed(f"{type(layer).__name__} has no {', '.join(missing)}")
        for module in (layer, layer.self_attn):
            for names in (("hidden_states",), ("attention_mask",), ("position_embeddings",), CACHE):
                keyword(module, names)
        for name in ("layer_idx", "head_dim", "scaling"):
            if not hasattr(layer.self_attn, name):
                raise changed(f"{type(layer.self_attn).__name__} has no {name}")


def layers_of(decoder: Any) -> Any:
    """The decoder's layers, first to last."""
    return decoder.layers


def norm_of(decoder: Any) -> nn.Module:
    """The norm before the head."""
    norm: nn.Module = decoder.norm
    return norm


def embeddings_of(decoder: Any) -> Any:
    """The module that turns token ids into embeddings; its `weight` is the table [V, D]."""
    return decoder.embed_tokens


def rotary_of(decoder: Any) -> nn.Module:
    """The rotary embedding: called with hidden states and positions, it returns cosines and sines."""
    rotary: nn.Module = decoder.rotary_emb
    return rotary


def cosines_and_sines(
    rotary: Any, hidden: torch.Tensor, positions: Int[torch.Tensor, "... 1 S"]
) -> tuple[torch.Tensor, ...]:
    """What a rotary embedding computes from its original frequencies.

    Some types choose frequencies by the longest position at hand; up to `hf_models.position_limit` that is these.
    """
    call = partial(inspect.unwrap(type(rotary).forward), rotary) if branches(rotary) else rotary
    tables: tuple[torch.Tensor, ...] = call(hidden, positions)
    return tables


def branches(rotary: Any) -> bool:
    """Whether a rotary embedding chooses its frequencies by the positions at hand."""
    kind = getattr(rotary, "rope_type", "default")
    kinds = kind.values() if isinstance(kind, Mapping) else (kind,)
    return any(branching(each) for each in kinds)


def branching(kind: str) -> bool:
    """Whether a type of rotary embedding, by transformers' name, does that."""
    return "dynamic" in kind or kind == "longrope"


def layer_number(attention: Any) -> int:
    """Number of the layer that an attention belongs to."""
    return int(attention.layer_idx)


def attention_of(layer: Any) -> Any:
    """The attention of a decoder layer."""
    return layer.self_attn


def mlp_of(layer: Any) -> nn.Module:
    """The MLP of a decoder layer."""
    mlp: nn.Module = layer.mlp
    return mlp


def norm_after_attention(layer: Any) -> nn.Module:
    """The norm before a decoder layer's MLP: what it is given are the states after that layer's attention."""
    norm: nn.Module = layer.post_attention_layernorm
    return norm


def head_width(attention: Any) -> int:
    """Channels of one head."""
    return int(attention.head_dim)


def scaling(attention: Any) -> float:
    """What products of queries and keys are multiplied by."""
    return float(attention.scaling)


def projections(attention: Any) -> dict[str, nn.Module]:
    """The modules whose outputs go into the rotary embedding, `q` and `k`: projections, or the norms after them.

    Without one that projects queries and keys in one linear layer, where neither is to be had.
    """
    found = {}
    for letter in "qk":
        projection, norm = (getattr(attention, f"{letter}_{kind}", None) for kind in ("proj", "norm"))
        if isinstance(projection, nn.Module):
            found[letter] = norm if isinstance(norm, nn.Module) else projection
    return found


def replaced(module: nn.Module, **parts: nn.Module) -> nn.Module:
    """The same module, its other parts shared, with some replaced."""
    changed = copy.copy(module)
    changed._modules = {**module._modules, **parts}
    return changed


def without_attention(layer: nn.Module) -> nn.Module:
    """The same layer, its weights shared, whose attention adds nothing."""
    return replaced(layer, self_attn=_NoAttention())


def without_mlp(layer: nn.Module) -> nn.Module:
    """The same layer, its weights shared, whose MLP adds nothing."""
    return replaced(layer, mlp=_NoMlp())


class _NoMlp(nn.Module):
    """In the place of an MLP: adds nothing to the residual stream."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), dtype=hidden.dtype)


class _NoAttention(nn.Module):
    """In the place of an attention, likewise."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return torch.zeros((), dtype=hidden_states.dtype), None
