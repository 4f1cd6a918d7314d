"""What the graphs must compute: transformers' own forward, with dropped visual tokens masked from layer K on.

Masking a token in layers K.. gives kept tokens the same states as removing it (they attend to the same keys), so the
stock model with hooks is an oracle for pruning that shares no code with the graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from fastv_export.checkpoint import Checkpoint
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


def norm_after_attention(layer: Any) -> nn.Module:
    """The norm before a decoder layer's MLP: what it is given are the states after that layer's attention."""
    norm: nn.Module = layer.post_attention_layernorm
    return norm


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
    attention = decoder.layers[layer - 1].self_attn

    def observe(
        _: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        weights = output[1]
        if prompt <= weights.shape[2] == weights.shape[3]:
            if not rotary:
                # Cosine 1 and sine 0 turn nothing: the model's own attention once more, without its cache. `forward`
                # has no hooks.
                cosine, sine = kwargs["position_embeddings"]
                still = (torch.ones_like(cosine), torch.zeros_like(sine))
                weights = attention.forward(*args, **{**kwargs, "position_embeddings": still, "past_key_values": None})[
                    1
                ]
            pruning.scores = weights[0, :, prompt - 1, :prompt].float().mean(0)

    attended: list[torch.Tensor] = []

    def attend(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        attended[:] = args

    def mask(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        rows = hidden.shape[1]
        past = kwargs["past_key_values"]
        filled = 0 if past is None else past.get_seq_length(module.self_attn.layer_idx)
        if filled == 0 and module is decoder.layers[layer]:
            (pruning.hidden,) = attended
            if choose is None:
                pruning.keep = select(pruning.scores, prunable, length)
            else:
                pruning.keep = choose(pruning.scores, pruning.hidden[0, :prompt])
        attention_mask = kwargs["attention_mask"]
        if attention_mask is None:
            attention_mask = torch.zeros(1, 1, rows, filled + rows)
        dropped = torch.ones(prompt, dtype=torch.bool)
        dropped[pruning.keep] = False
        attention_mask = attention_mask.clone()
        attention_mask[..., :prompt][..., dropped] = torch.finfo(attention_mask.dtype).min
        return args, {**kwargs, "attention_mask": attention_mask}

    handles = [attention.register_forward_hook(observe, with_kwargs=True)]
    handles.append(norm_after_attention(decoder.layers[layer - 1]).register_forward_pre_hook(attend))
    handles += [each.register_forward_pre_hook(mask, with_kwargs=True) for each in decoder.layers[layer:]]
    try:
        yield pruning
    finally:
        for handle in handles:
            handle.remove()
