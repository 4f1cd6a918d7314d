"""The seam to transformers' decoders: every name of theirs that is no public API, and nothing else, is in here.

What layers are called, which keywords they take, what hooks see and what an attention returns changes between releases.
Keywords are found in signatures, never by a version number; what is not found is one clear line. `hf_models.py` is the
same for whole models: building, loading, towers; `hf_probe.py` for what can only be found by running them.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from fastv_runtime.errors import UserError

CACHE = ("cache", "past_key_values")
"""Keyword, of layers and models, and attribute, of outputs, for the cache: the first from transformers 5.24 on."""

DECODER_PARTS = ("embed_tokens", "layers", "norm", "rotary_emb")
LAYER_PARTS = ("input_layernorm", "mlp", "post_attention_layernorm", "self_attn")
"""All that a layer consists of: two norms, an attention and an MLP. Another part would be lost where layers are cut."""

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
"""What layers of towers that take pictures of any size hand over as well; those of keys are those of queries."""

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


def changed(what: str) -> UserError:
    """Error for a transformers, or a model in it, that is not as this module knows them."""
    return UserError(
        f"transformers {version('transformers')}: {what}: either this model is of another build than those that "
        "fastv-edge can take, or transformers has renamed something: install a version that fastv-edge was tested "
        "with (docs/dependencies.md)"
    )


def keyword(module: Any, names: tuple[str, ...]) -> str:
    """Which of the names is a keyword of a module's forward; a UserError if none is."""
    taken = inspect.signature(type(module).forward).parameters
    for name in names:
        if name in taken:
            return name
    others = ", ".join(name for name, each in taken.items() if name != "self" and each.kind is not each.VAR_KEYWORD)
    raise changed(f"{type(module).__name__}.forward takes no {' or '.join(names)}, only {others}")


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
    return decoder.norm


def embeddings_of(decoder: Any) -> Any:
    """The module that turns token ids into embeddings; its `weight` is the table [V, D]."""
    return decoder.embed_tokens


def rotary_of(decoder: Any) -> nn.Module:
    """The rotary embedding: called with hidden states and positions, it returns cosines and sines."""
    return decoder.rotary_emb


def cosines_and_sines(
    rotary: Any, hidden: torch.Tensor, positions: Int[torch.Tensor, "... 1 S"]
) -> tuple[torch.Tensor, ...]:
    """What a rotary embedding computes from its original frequencies.

    Some types choose frequencies by the longest position at hand; up to `hf_models.position_limit` that is these.
    """
    if branches(rotary):
        return inspect.unwrap(type(rotary).forward)(rotary, hidden, positions)
    return rotary(hidden, positions)


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

    Without one that projects queries and keys in one product, where neither is to be had.
    """
    found = {}
    for letter in "qk":
        projection, norm = (getattr(attention, f"{letter}_{kind}", None) for kind in ("proj", "norm"))
        if isinstance(projection, nn.Module):
            found[letter] = norm if isinstance(norm, nn.Module) else projection
    return found


def replaced(module: nn.Module, **parts: nn.Module) -> Any:
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
    return layer(hidden, attention_mask=mask, position_embeddings=rotary, **caching, **to_attention)


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


class LayerInputs:
    """What a forward pre-hook of a decoder layer, or of its attention, sees."""

    def __init__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self._module, self.args, self.kwargs = module, args, kwargs

    @property
    def hidden(self) -> Float[torch.Tensor, "1 S D"]:
        return self.args[0] if self.args else self.kwargs["hidden_states"]

    @property
    def mask(self) -> torch.Tensor | None:
        """Added to attention logits; None where no row is masked."""
        return self.kwargs["attention_mask"]

    @property
    def cached_rows(self) -> int:
        """Rows that the cache holds for this layer."""
        past = self.kwargs.get(keyword(self._module, CACHE))
        return 0 if past is None else past.get_seq_length(layer_number(self._module.self_attn))

    def masked_by(self, mask: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same with another mask, as a hook returns it."""
        return self.args, {**self.kwargs, "attention_mask": mask}

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


class _NoMlp(nn.Module):
    """In the place of an MLP: adds nothing to the residual stream."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), dtype=hidden.dtype)


class _NoAttention(nn.Module):
    """In the place of an attention, likewise."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return torch.zeros((), dtype=hidden_states.dtype), None
