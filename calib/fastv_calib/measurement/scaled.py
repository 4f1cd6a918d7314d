"""Scales and importance of a loaded model's products, as an export chooses them from what products are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float

from fastv_export.quantization.activations import Activation
from fastv_export.quantization.scaling import Method, Scale
from fastv_export.quantization.weights import Quantization


@dataclass(frozen=True)
class LoadedWeight:
    """A weight [outputs, inputs] in memory, as `scaling` reads those of a checkpoint."""

    values: Float[torch.Tensor, "O I"]
    torch_dtype: torch.dtype = torch.float32

    def rows(self, block: int, *, most: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows, or about `most` that are spread over them."""
        yield 0, self.values[:: 1 if most is None else max(1, len(self.values) // most)]


def with_scales(
    roundings: Mapping[str, Quantization],
    weights: Mapping[str, torch.Tensor],
    activation: Activation,
    method: Method,
    config: Any,
) -> dict[str, Quantization]:
    """The roundings of products that share an input, by their names in a layer.

    An export leaves inputs without a scale where nothing before them takes a division; here all have one.
    config: of the language model, whose heads share values.
    """
    known = {name: replace(rounding, importance=activation.mean_square) for name, rounding in roundings.items()}
    tie = partial(tied, config) if any("o_proj" in name for name in known) else lambda sizes: sizes
    group: Any = [(LoadedWeight(weights[name]), rounding) for name, rounding in known.items()]
    scale = method(group, activation, tie)
    return known if scale is None else {name: rounding.scaled(scale) for name, rounding in known.items()}


def groups(names: list[str], activations: Mapping[str, Activation]) -> dict[str, list[str]]:
    """Products of a layer, in the order in which they run, by the first of those that share an input.

    activations: of the layer's products; only such first ones have one (`fastv_export.quantization.activations`).
    """
    found: dict[str, list[str]] = {}
    for name in names:
        if name in activations:
            found[name] = []
        if found:
            found[next(reversed(found))].append(name)
    return found


def tied(config: Any, sizes: Scale) -> Scale:
    """Heads of queries that share values share their scale."""
    heads = config.num_key_value_heads
    by_head = sizes.reshape(heads, config.num_attention_heads // heads, -1)
    return by_head.mean(1, keepdim=True).expand(by_head.shape).reshape(-1)
