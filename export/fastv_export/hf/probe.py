"""The seam to transformers, third part: what decoders and their layers do beside what they consist of, by running them.

Layers are cut, and a graph has nothing but layers; whatever else a decoder's own forward does has to be found. All of
it runs on a few rows, and on stand-ins for what has weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn

from fastv_export import hf

ROWS = 3
OWN = ("hidden_states", "attention_mask", "position_embeddings", *hf.CACHE)
"""What `hf.run_layer` hands to a layer."""

SCALE = 1e-6
"""Relative rounding that two ways to one product may differ by."""


@dataclass
class Calls:
    """What a decoder's forward handed to its layers, in the order of calls, and what became of it."""

    numbers: list[int] = field(default_factory=list)
    hidden: list[torch.Tensor] = field(default_factory=list)
    masks: list[torch.Tensor | None] = field(default_factory=list)
    rotary: list[Any] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    """What `hf.run_layer` hands to no layer: keywords, without what is None or a flag."""
    output: torch.Tensor = field(default_factory=lambda: torch.empty(0))


def hollow(
    decoder: Any, embedded: Float[torch.Tensor, "1 S D"], positions: Int[torch.Tensor, "... 1 S"] | None
) -> Calls:
    """A decoder's own forward, its norm left out, through layers of which number i adds i + 1 and nothing else."""
    calls = Calls()
    layers = nn.ModuleList(_Recorder(layer, index, calls) for index, layer in enumerate(hf.layers_of(decoder)))
    with torch.no_grad():
        calls.output = hf.run_decoder(hf.replaced(decoder, layers=layers, norm=nn.Identity()), embedded, positions)[0]
    return calls


def entry_factor(decoder: Any) -> float:
    """What a decoder multiplies its input by before the first layer."""
    ones = torch.ones(1, ROWS, embedding_width(decoder))
    return float(hollow(decoder, ones, None).hidden[0].flatten()[0])


def embedding_factor(decoder: Any) -> float | None:
    """What the embedding module multiplies rows of its table by; None if it makes something else of them."""
    width = embedding_width(decoder)
    row = torch.rand(width, generator=torch.Generator().manual_seed(0)) + 0.5
    factor = float(_embedded(decoder, torch.ones(width))[0])
    return factor if _close(_embedded(decoder, row), factor * row) else None


def _embedded(decoder: Any, row: Float[torch.Tensor, " D"]) -> Float[torch.Tensor, " D"]:
    """What the embedding module makes of a row. It stands for all of a table, which may be more than memory holds."""
    module = hf.embeddings_of(decoder)
    probe = copy.copy(module)
    table = nn.Parameter(row.expand(module.weight.shape), requires_grad=False)
    probe._parameters = {**module._parameters, "weight": table}
    with torch.no_grad():
        made: torch.Tensor = probe(torch.tensor([[1, 0]]))[0, 0]
        return made


def embedding_width(decoder: Any) -> int:
    """Channels of an embedding."""
    return int(hf.embeddings_of(decoder).weight.shape[1])


def more_parts(layer: Any) -> list[str]:
    """What a layer has beside the parts that it is cut into; dropouts have nothing to lose."""
    modules = [
        name
        for name, module in layer.named_children()
        if name not in hf.LAYER_PARTS and not isinstance(module, nn.Dropout | nn.Identity)
    ]
    return modules + [name for name, _ in layer.named_parameters(recurse=False)]


def lacking_parts(layer: Any) -> list[str]:
    """What a layer should have and has not."""
    return [name for name in hf.LAYER_PARTS if getattr(layer, name, None) is None]


def lacking(decoder: Any) -> list[str]:
    """The same of a decoder."""
    return [name for name in hf.DECODER_PARTS if getattr(decoder, name, None) is None]


def lacking_in_attention(layer: Any) -> list[str]:
    """What a layer's attention should say of itself and does not: its heads may be laid out in another way."""
    return [name for name in ("head_dim", "layer_idx", "scaling") if not hasattr(hf.attention_of(layer), name)]


def experts(layer: Any) -> bool:
    """Whether a layer's MLP is several: more than three projections, or stacks of matrices."""
    mlp = hf.mlp_of(layer)
    count = sum(isinstance(module, nn.Linear) for module in mlp.modules())
    return count > 3 or any(parameter.ndim > 2 for parameter in mlp.parameters())


def can_be_cut(layer: Any, width: int) -> bool:
    """Whether a layer is its attention, added, and then its MLP, added to that: what its two halves come to.

    Its parts are replaced, so that the arithmetic between them is all that runs.
    """
    norm, last = _Norm(), _Norm()
    probe = hf.replaced(
        layer,
        input_layernorm=norm,
        self_attn=_Attention(),
        post_attention_layernorm=last,
        mlp=_Mlp(),
    )
    hidden = torch.rand(1, ROWS, width, generator=torch.Generator().manual_seed(0))
    arguments: dict[str, Any] = {"mask": torch.zeros(1, 1, ROWS, ROWS), "rotary": (hidden, hidden)}
    with torch.no_grad():
        whole = hf.run_layer(probe, hidden, **arguments)
        first_given, last_given = norm.given, last.given
        first = hf.run_layer(hf.without_mlp(probe), hidden, **arguments)
        second = hf.run_layer(hf.without_attention(probe), first, **arguments)
    return _close(whole, second) and _close(first_given, hidden) and _close(last_given, first)


class ProbingCache(hf.LayerCache):
    """Keeps what layers store."""

    def __init__(self) -> None:
        self.stored: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.stored.append((layer, key, value))
        return key, value


class Touched(Exception):
    """A layer used something that graphs do not hand to it."""


class Untouchable:
    """In the place of an argument that a layer may pass on, but not use."""

    def __init__(self, name: str):
        self.__dict__["_name"] = name

    def __getattr__(self, name: str) -> Any:
        raise Touched(self.__dict__["_name"])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        used = next(each for each in [*args, *(kwargs or {}).values()] if isinstance(each, cls))
        raise Touched(used.__dict__["_name"])

    def __getitem__(self, index: Any) -> Any:
        raise Touched(self.__dict__["_name"])

    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __getitem__
    __lt__ = __le__ = __gt__ = __ge__ = __getitem__


def run_once(
    layer: Any,
    hidden: Float[torch.Tensor, "1 S D"],
    rotary: tuple[torch.Tensor, ...],
    cache: ProbingCache,
    others: Mapping[str, Any],
    **to_attention: Any,
) -> Float[torch.Tensor, "1 S D"]:
    """One layer with its own parts. others: what its decoder hands to it and graphs do not; Touched if it uses them."""
    rows = hidden.shape[1]
    mask = torch.ones(1, 1, rows, rows, dtype=torch.bool).tril()
    unused = {name: Untouchable(name) for name in others}
    return hf.run_layer(layer, hidden, mask=mask, rotary=rotary, cache=cache, **unused, **to_attention)


class _Recorder(nn.Module):
    """In the place of a layer: writes down what it is handed. It has the layer's attributes, and none of its hooks."""

    def __init__(self, layer: Any, number: int, calls: Calls):
        super().__init__()
        self.__dict__ |= {"_layer": layer, "_number": number, "_calls": calls}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"], name)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls = self._calls
        hidden = args[0] if args else kwargs["hidden_states"]
        calls.numbers.append(self._number)
        calls.hidden.append(hidden)
        calls.masks.append(kwargs.get("attention_mask"))
        calls.rotary.append(kwargs.get("position_embeddings"))
        others = {name: value for name, value in kwargs.items() if name not in OWN}
        others |= {f"argument {index}": value for index, value in enumerate(args) if index}
        calls.others.append({name: value for name, value in others.items() if not isinstance(value, bool | None)})
        output: torch.Tensor = hidden + (self._number + 1)
        return output


class _Norm(nn.Module):
    """A norm that changes nothing, and keeps what it is given."""

    given: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.given = hidden
        return hidden


class _Attention(nn.Module):
    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return hidden_states.sin(), None


class _Mlp(nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.square()


def _close(one: Any, other: torch.Tensor) -> bool:
    if not isinstance(one, torch.Tensor) or one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=SCALE, atol=SCALE)
