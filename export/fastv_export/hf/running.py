"""One layer or a whole decoder, run, with a cache of our own or transformers'."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int

from fastv_export.hf.signatures import CACHE, changed, keyword


class LayerCache(ABC):
    """What decoder layers see as their cache. A subclass says what becomes of new rows."""

    @abstractmethod
    def store(
        self, layer: int, key: Float[torch.Tensor, "1 Hkv S Dh"], value: Float[torch.Tensor, "1 Hkv S Dh"]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the new rows of a layer; returns the keys and values that it attends to."""

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """transformers' name for `store`, all that its layers call."""
        return self.store(layer_idx, key, value)


def run_layer(
    layer: Any,
    hidden: Float[torch.Tensor, "1 S D"],
    *,
    mask: torch.Tensor,
    rotary: tuple[torch.Tensor, ...],
    cache: LayerCache | None = None,
    **to_attention: Any,
) -> Float[torch.Tensor, "1 S D"]:
    """One decoder layer. `to_attention` arrives at the attention function as `Attention.extra`."""
    # Nothing may vanish in the layer's **kwargs: `check_decoder` has found these keywords in its signature.
    caching = {} if cache is None else {keyword(layer, CACHE): cache}
    rows: torch.Tensor = layer(hidden, attention_mask=mask, position_embeddings=rotary, **caching, **to_attention)
    return rows


def run_decoder(
    decoder: Any,
    embedded: Float[torch.Tensor, "1 S D"],
    positions: Int[torch.Tensor, "... 1 S"] | None,
    *,
    deepstack: list[Float[torch.Tensor, "N D"]] | None = None,
    visual: Bool[torch.Tensor, " S"] | None = None,
    cache: Any = None,
) -> tuple[Float[torch.Tensor, "1 S D"], Any]:
    """Last hidden states, normed, and the cache that it filled, of a stock decoder.

    positions: None has the decoder count. deepstack: what is added to the rows that `visual` marks after each of the
    first layers. cache: what an earlier call returned.
    """
    arguments: dict[str, Any] = {"inputs_embeds": embedded, "use_cache": True}
    if positions is not None:
        arguments["position_ids"] = positions
    if deepstack:
        assert visual is not None
        arguments[keyword(decoder, ("visual_pos_masks",))] = visual[None]
        arguments[keyword(decoder, ("deepstack_visual_embeds",))] = deepstack
    if cache is not None:
        arguments[keyword(decoder, CACHE)] = cache
    output = decoder(**arguments)
    return output.last_hidden_state, cache_in(output)


def cache_in(output: Any) -> Any:
    """The cache in a model's output."""
    for name in CACHE:
        if name in output:
            return output[name]
    raise changed(f"{type(output).__name__} has no {' or '.join(CACHE)}")


def cached(cache: Any, layer: int) -> tuple[Float[torch.Tensor, "1 Hkv S Dh"], Float[torch.Tensor, "1 Hkv S Dh"]]:
    """Keys and values of one layer in transformers' own cache."""
    return cache.layers[layer].keys, cache.layers[layer].values
