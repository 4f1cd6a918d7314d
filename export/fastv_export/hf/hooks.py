"""What hooks of a decoder layer see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float

from fastv_export.hf.parts import layer_number, norm_after_attention
from fastv_export.hf.running import cached
from fastv_export.hf.signatures import CACHE, changed, keyword


class LayerInputs:
    """What a forward pre-hook of a decoder layer, or of its attention, sees."""

    def __init__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self._module, self.args, self.kwargs = module, args, kwargs

    @property
    def hidden(self) -> Float[torch.Tensor, "1 S D"]:
        hidden: torch.Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return hidden

    @property
    def mask(self) -> torch.Tensor | None:
        """Added to attention logits; None where no row is masked."""
        mask: torch.Tensor | None = self.kwargs["attention_mask"]
        return mask

    @property
    def cached_rows(self) -> int:
        """Rows that the cache holds for this layer."""
        past = self.kwargs.get(keyword(self._module, CACHE))
        return 0 if past is None else past.get_seq_length(layer_number(self._module.self_attn))

    def masked_by(self, mask: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same with another mask, as a hook returns it."""
        return self.args, {**self.kwargs, "attention_mask": mask}

    def keys(self) -> Float[torch.Tensor, "1 Hkv S Dh"]:
        """Keys of the same rows as the attention uses them, by its own forward into a cache of transformers' own."""
        from transformers import DynamicCache

        cache = DynamicCache()
        self._module.forward(*self.args, **{**self.kwargs, keyword(self._module, CACHE): cache})
        return cached(cache, layer_number(self._module))[0]

    def weights_without_rotary(self) -> Float[torch.Tensor, "1 H S S"]:
        """Attention weights of the same rows if nothing were rotated, by the attention's own forward, without hooks."""
        cosine, sine = self.kwargs["position_embeddings"]
        still = (torch.ones_like(cosine), torch.zeros_like(sine))
        again = {**self.kwargs, "position_embeddings": still, keyword(self._module, CACHE): None}
        return attention_weights(self._module.forward(*self.args, **again))


def attention_weights(output: tuple[torch.Tensor, torch.Tensor | None]) -> Float[torch.Tensor, "1 H S C"]:
    """The weights that an eager attention returned."""
    weights = output[1]
    if weights is None:
        raise changed("an eager attention returns no weights")
    return weights


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Hooks that end with this context."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def before_layer(layer: Any, hook: Callable[[LayerInputs], Any]) -> Any:
    """Call `hook` before a layer runs; what it returns, unless None, are the layer's arguments."""
    return layer.register_forward_pre_hook(
        lambda module, args, kwargs: hook(LayerInputs(module, args, kwargs)), with_kwargs=True
    )


def after_attention(layer: Any, hook: Callable[[LayerInputs, Float[torch.Tensor, "1 H S C"]], None]) -> Any:
    """Call `hook` with the inputs and the weights of a layer's eager attention when it has run."""

    def observe(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hook(LayerInputs(module, args, kwargs), attention_weights(output))

    return layer.self_attn.register_forward_hook(observe, with_kwargs=True)


def before_mlp(layer: Any, hook: Callable[[Float[torch.Tensor, "1 S D"]], None]) -> Any:
    """Call `hook` with the states after a layer's attention, residual included."""

    def observe(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        hook(args[0])

    return norm_after_attention(layer).register_forward_pre_hook(observe)
