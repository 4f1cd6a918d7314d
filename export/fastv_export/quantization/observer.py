"""What the products of a decoder are given while it runs: sums and extremes over rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from fastv_export import hf

Statistics = dict[str, np.ndarray]
"""Of one sample: PRODUCT.sum, .sum_abs, .sum_square, .max_abs, fp32 [inputs]; .sum_unit, of squares of rows over their
root mean square, fp32 [inputs]; .sum_log, of rows' root mean squares, fp32 [1]; .range fp32 [2], .rows i64 [1]."""


class Observer:
    """Looks at what the linear layers of a decoder, and its head, are given."""

    def __init__(self, decoder: Any, head: nn.Module):
        self._first = hf.layers_of(decoder)[0]
        self._products = {
            f"layers.{index}.{name}": module
            for index, layer in enumerate(hf.layers_of(decoder))
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        } | {"head": head}

    @contextmanager
    def observed(self, statistics: Statistics) -> Iterator[None]:
        """Within this context forwards add to the statistics. Products with one input stand under the first of them."""
        seen: set[str] = set()
        last: list[torch.Tensor] = []

        def look(name: str, rows: torch.Tensor) -> None:
            # A layer whose scores are wanted without rotary embedding runs its attention twice: that is no input more.
            if name not in seen:
                seen.add(name)
                if not last or last[0] is not rows:
                    last[:] = [rows]
                    _add(statistics, name, rows)

        handles = [self._first.register_forward_pre_hook(lambda *_: seen.clear())]
        handles += [
            module.register_forward_pre_hook(lambda _, args, name=name: look(name, args[0]))
            for name, module in self._products.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def means(statistics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors as `activations` describes them."""
    tensors = {}
    for product in [name.removesuffix(".rows") for name in statistics if name.endswith(".rows")]:
        rows = statistics[f"{product}.rows"][0]
        for kind in ("", "_abs", "_square"):
            tensors[f"{product}.mean{kind}"] = statistics[f"{product}.sum{kind}"] / rows
        size = np.exp(statistics[f"{product}.sum_log"] / rows)
        tensors[f"{product}.typical_square"] = size**2 * statistics[f"{product}.sum_unit"] / rows
        for kind in ("max_abs", "range"):
            tensors[f"{product}.{kind}"] = statistics[f"{product}.{kind}"]
    return tensors


def _add(statistics: Statistics, product: str, values: Float[torch.Tensor, "... I"]) -> None:
    rows = values.detach().flatten(0, -2).float()
    squares = rows.square()
    sizes = squares.mean(1, keepdim=True)
    # Rows of zeros have no logarithm: they count as the others do in the mean.
    logs = sizes[sizes > 0].log() / 2
    found = {
        "sum": rows.sum(0),
        "sum_abs": rows.abs().sum(0),
        "sum_square": squares.sum(0),
        "sum_unit": (squares / sizes.clamp_min(torch.finfo(torch.float32).tiny)).sum(0),
        "max_abs": rows.abs().amax(0),
        "range": torch.stack(torch.aminmax(rows)),
        "sum_log": (logs.mean() * len(rows) if len(logs) else torch.zeros(())).reshape(1),
        "rows": torch.tensor([len(rows)]),
    }
    for kind, tensor in found.items():
        name, more = f"{product}.{kind}", tensor.numpy()
        statistics[name] = merged(name, statistics[name], more) if name in statistics else more


def merged(name: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Statistics of two lots of rows as one, by their name."""
    kind = name.rpartition(".")[2]
    if kind == "max_abs":
        largest: np.ndarray = np.maximum(first, second)
        return largest
    if kind == "range":
        return np.array([min(first[0], second[0]), max(first[1], second[1])], first.dtype)
    total: np.ndarray = first + second
    return total
