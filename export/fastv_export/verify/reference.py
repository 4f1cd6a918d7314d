"""What the graphs must compute: transformers' own forward, with dropped visual tokens masked from layer K on.

Masking a token in layers K.. gives kept tokens the same states as removing it (they attend to the same keys), so the
stock model with hooks is an oracle for pruning that shares no code with the graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(scores [S], hidden [S, D] after the attention of layer K-1) -> indices that stay, ascending."""


@dataclass
class Pruning:
    """What happened in one pruned forward: filled in when the prompt passes layers K-1 and K."""

    scores: Float[torch.Tensor, " S"] = field(default_factory=lambda: torch.empty(0))
    """Softmax attention of the prompt's last row at layer K-1, mean over heads; as asked, without rotary embedding."""
    keep: Int[torch.Tensor, " M"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Kept indices, ascending."""
    hidden: Float[torch.Tensor, "1 rows D"] = field(default_factory=lambda: torch.empty(0))
    """States after the attention of layer K-1, residual included, all rows of that forward."""


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
    """Within this context the stock decoder prunes at layer K = `layer`, by masking.

    prunable: which tokens of the prompt may go. length: M. rotary: False scores without rotary embedding. choose: what
    decides which tokens stay; None means the scores. The first forward must hold the whole prompt, and no cache; rows
    after the prompt are tokens decoded after it. Later forwards may go on with the cache that it filled.
    """
    pruning = Pruning()
    prompt = prunable.numel()
    layers = hf.layers_of(decoder)

    def observe(inputs: hf.LayerInputs, weights: torch.Tensor) -> None:
        if prompt <= weights.shape[2] == weights.shape[3]:
            if not rotary:
                weights = inputs.weights_without_rotary()
            pruning.scores = weights[0, :, prompt - 1, :prompt].float().mean(0)

    attended: list[torch.Tensor] = []

    def attend(states: torch.Tensor) -> None:
        attended[:] = [states]

    def mask(index: int, inputs: hf.LayerInputs) -> Any:
        rows, filled = inputs.hidden.shape[1], inputs.cached_rows
        if filled == 0 and index == layer:
            (pruning.hidden,) = attended
            if choose is None:
                pruning.keep = select(pruning.scores, prunable, length)
            else:
                pruning.keep = choose(pruning.scores, pruning.hidden[0, :prompt])
        shown = inputs.mask
        shown = torch.zeros(1, 1, rows, filled + rows) if shown is None else shown.clone()
        dropped = torch.ones(prompt, dtype=torch.bool)
        dropped[pruning.keep] = False
        shown[..., :prompt][..., dropped] = torch.finfo(shown.dtype).min
        return inputs.masked_by(shown)

    handles = [hf.after_attention(layers[layer - 1], observe), hf.before_mlp(layers[layer - 1], attend)]
    handles += [hf.before_layer(layers[index], partial(mask, index)) for index in range(layer, len(layers))]
    with hf.hooked(*handles):
        yield pruning
