"""What a stock decoder's layers show of rows that come to a cut: signals and states of the layers before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int

from fastv_calib.measurement.rankers import Looks, SeenByAll
from fastv_calib.samples.inputs import DecoderInputs
from fastv_export import hf
from fastv_export.verify.signals import attention_signals, key_signals
from fastv_runtime.config.cuts import Signal


@dataclass
class LayerWatch:
    """What is seen before a cut at layer K, by each of P plans that run side by side: filled in as the layers run."""

    looks: Looks
    rows: int
    """L, of the prompt: rows behind them are an answer's. Forwards of fewer rows, or with a cache, are not watched."""
    signals: list[dict[Signal, torch.Tensor]] = field(default_factory=list)
    unrotated: list[dict[Signal, torch.Tensor]] = field(default_factory=list)
    attended: Float[torch.Tensor, "P L D"] = field(default_factory=lambda: torch.empty(0))

    def scored(self, layer: Any) -> list[Any]:
        """Handles of hooks on layer K-1."""
        observe = partial(self._observe, earlier=False)
        return [hf.after_attention(layer, observe), hf.before_mlp(layer, self._attend)]

    def earlier(self, layer: Any) -> list[Any]:
        """Handles of hooks on layer K-2, where a ranker reads it."""
        if not self.looks.earlier:
            return []
        return [hf.after_attention(layer, partial(self._observe, earlier=True))]

    def seen(self, plan: int, inputs: DecoderInputs, rows: Int[torch.Tensor, " L"]) -> SeenByAll:
        """By one plan, whose rows of the prompt are given."""
        given: dict[Signal, torch.Tensor] = {} if inputs.change is None else {"change": inputs.change[rows]}
        return SeenByAll(self.signals[plan] | given, self.unrotated[plan], self.attended[plan], inputs.visual[rows])

    def _observe(self, inputs: hf.LayerInputs, weights: Float[torch.Tensor, "P H R C"], *, earlier: bool) -> None:
        if not weights.shape[2] == weights.shape[3] >= self.rows:
            return
        _add(self.signals, self.looks.signals, weights, self.rows, earlier)
        if "key_norms" in self.looks.signals and not earlier:
            for found, keys in zip(self.signals, inputs.keys(), strict=True):
                found |= key_signals(keys[:, : self.rows], torch.arange(self.rows))
        plain = self.looks.unrotated
        _add(self.unrotated, plain, inputs.weights_without_rotary() if plain else weights, self.rows, earlier)

    def _attend(self, states: Float[torch.Tensor, "P R D"]) -> None:
        if states.shape[1] >= self.rows:
            self.attended = states[:, : self.rows]


def _add(
    found: list[dict[Signal, torch.Tensor]],
    wanted: frozenset[Signal],
    weights: Float[torch.Tensor, "P H R C"],
    rows: int,
    earlier: bool,
) -> None:
    """Signals by their definition, of those that are wanted, of every plan's `rows` of the prompt."""
    found.extend({} for _ in range(len(weights) - len(found)))
    everyone: Int[torch.Tensor, " L"] = torch.arange(rows)
    for plan, own in enumerate(weights):
        if wanted:
            signals = attention_signals(own[:, :rows, :rows].float(), everyone, earlier=earlier)
            found[plan] |= {name: value for name, value in signals.items() if name in wanted}


def hooks(decoder: Any, watches: Mapping[int, LayerWatch], layers: range) -> list[Any]:
    """Handles of all hooks on `layers` that watches, by K, want."""
    modules, found = hf.layers_of(decoder), []
    for cut, watch in watches.items():
        if cut - 1 in layers:
            found += watch.scored(modules[cut - 1])
        if cut - 2 in layers:
            found += watch.earlier(modules[cut - 2])
    return found
