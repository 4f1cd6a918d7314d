"""What the graphs must compute: transformers' own forward, with dropped visual tokens masked from each cut on.

Masking a token in layers K.. gives kept tokens the same states as removing it (they attend to the same keys), so the
stock model with hooks is an oracle for pruning that shares no code with the graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int

from fastv_export import hf
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import Family
from fastv_export.rankers.base import Seen
from fastv_export.verify.signals import EARLIER, attention_signals, key_signals
from fastv_runtime.config.cuts import Signal

Choose = Callable[[Seen], torch.Tensor]
"""What is seen of the S rows that come to a cut -> those that stay, ascending, of 0 to S - 1."""


@dataclass(frozen=True)
class ReferenceCut:
    """Where the reference prunes, and by what."""

    layer: int
    """K."""
    length: int
    """M, of the prompt's rows."""
    signals: tuple[Signal, ...] = ("scores",)
    """What is to be seen."""
    rotary: bool = True
    """False: scores are without rotary embedding."""
    choose: Choose | None = None
    """Decides which rows stay; None means the scores."""
    change: Float[torch.Tensor, " S"] | None = None
    """The signal that no forward gives, of the whole prompt."""


@dataclass
class Pruning:
    """What happened at one cut in one forward: filled in when the prompt passes layers K-1 and K."""

    signals: dict[Signal, torch.Tensor] = field(default_factory=dict)
    """Of the rows that came to the cut."""
    keep: Int[torch.Tensor, " M"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """The prompt's rows that are left, ascending."""
    hidden: Float[torch.Tensor, "1 rows D"] = field(default_factory=lambda: torch.empty(0))
    """States after the attention of layer K-1, residual included, all rows of that forward."""

    @property
    def scores(self) -> Float[torch.Tensor, " S"]:
        """The signal [S] of that name; as asked, without rotary embedding."""
        return self.signals["scores"]


def load_model(path: Path, family: Family) -> Any:
    """The model in fp32, with eager attention: the only one that returns attention weights."""
    return family.load(Checkpoint(path)).eval()


def select(
    scores: Float[torch.Tensor, " S"], prunable: Bool[torch.Tensor, " S"], length: int
) -> Int[torch.Tensor, " M"]:
    """Indices that stay: all that are not prunable and the best scored others, ascending; ties to the lower index."""
    ranked = torch.where(prunable, scores, torch.inf)
    return ranked.argsort(descending=True, stable=True)[:length].sort().values


@contextmanager
def pruned(
    decoder: Any,
    layer: int,
    prunable: Bool[torch.Tensor, " S"],
    length: int,
    *,
    rotary: bool = True,
    choose: Choose | None = None,
) -> Iterator[Pruning]:
    """`pruned_by` one cut."""
    cut = ReferenceCut(layer, length, rotary=rotary, choose=choose)
    with pruned_by(decoder, prunable, [cut]) as (pruning,):
        yield pruning


@contextmanager
def pruned_by(
    decoder: Any, prunable: Bool[torch.Tensor, " S"], cuts: Sequence[ReferenceCut]
) -> Iterator[list[Pruning]]:
    """Within this context the stock decoder prunes at each cut, from the first layer to the last, by masking.

    prunable: which tokens of the prompt may go. The first forward must hold the whole prompt, and no cache; rows after
    the prompt are tokens decoded after it. Later forwards may go on with the cache that it filled.
    """
    prunings = [Pruning() for _ in cuts]
    prompt = prunable.numel()
    layers = hf.layers_of(decoder)
    attended: list[torch.Tensor] = []

    def rows(index: int) -> Int[torch.Tensor, " S"]:
        """Those that come to a cut."""
        return prunings[index - 1].keep if index else torch.arange(prompt)

    def observe(index: int, earlier: bool, inputs: hf.LayerInputs, weights: torch.Tensor) -> None:
        if not prompt <= weights.shape[2] == weights.shape[3]:
            return
        if not cuts[index].rotary:
            weights = inputs.weights_without_rotary()
        found = attention_signals(weights[0, :, :prompt, :prompt].float(), rows(index), earlier=earlier)
        if "key_norms" in cuts[index].signals and not earlier:
            found |= key_signals(inputs.keys()[0, :, :prompt], rows(index))
        prunings[index].signals |= {name: found[name] for name in cuts[index].signals if name in found}

    def attend(states: torch.Tensor) -> None:
        attended[:] = [states]

    def prune(index: int) -> None:
        cut, pruning, left = cuts[index], prunings[index], rows(index)
        (pruning.hidden,) = attended
        if cut.change is not None:
            pruning.signals["change"] = cut.change[left]
        seen = Seen(pruning.hidden[0, left], prunable[left], pruning.signals)
        pruning.keep = left[select(seen.scores, seen.prunable, cut.length) if cut.choose is None else cut.choose(seen)]

    def mask(layer: int, inputs: hf.LayerInputs) -> Any:
        filled = inputs.cached_rows
        last = max(index for index, cut in enumerate(cuts) if cut.layer <= layer)
        if filled == 0 and cuts[last].layer == layer:
            prune(last)
        count, shown = inputs.hidden.shape[1], inputs.mask
        shown = torch.zeros(1, 1, count, filled + count) if shown is None else shown.clone()
        dropped = torch.ones(prompt, dtype=torch.bool)
        dropped[prunings[last].keep] = False
        shown[..., :prompt][..., dropped] = torch.finfo(shown.dtype).min
        return inputs.masked_by(shown)

    handles = [hf.before_layer(layers[index], partial(mask, index)) for index in range(cuts[0].layer, len(layers))]
    for index, cut in enumerate(cuts):
        handles += [
            hf.after_attention(layers[cut.layer - 1], partial(observe, index, False)),
            hf.before_mlp(layers[cut.layer - 1], attend),
        ]
        if EARLIER & set(cut.signals):
            handles.append(hf.after_attention(layers[cut.layer - 2], partial(observe, index, True)))
    with hf.hooked(*handles):
        yield prunings
