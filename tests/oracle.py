"""FastV once more, from its paper (arXiv 2403.06764): rows are taken OUT of the stock model, where the exporter masks.

It shares nothing with `fastv_export`: scores are what `output_attentions=True` returns, the rest is transformers' own
whole forward, run anew for every token, with plain hooks on the layers from K on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

Choose = Callable[[torch.Tensor, int], list[int]]
"""Scores of the visual tokens and how many stay -> which, in any order."""


@dataclass(frozen=True)
class Answer:
    """What the stock model says once rows are gone."""

    kept: list[int]
    """Visual tokens that stayed after the last cut, counted among the visual, ascending."""
    logits: torch.Tensor
    """[V], from which the first token was chosen."""
    tokens: list[int]


def load(path: Path) -> Any:
    """The stock model of a checkpoint, in fp32, that returns attention weights."""
    return AutoModelForImageTextToText.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def best(scores: torch.Tensor, count: int) -> list[int]:
    """The paper's choice: the highest scores, of equal ones the earlier."""
    return sorted(range(len(scores)), key=lambda index: (-float(scores[index]), index))[:count]


@torch.no_grad()
def answer(
    model: Any,
    inputs: dict[str, torch.Tensor],
    visual: torch.Tensor,
    *,
    cuts: Sequence[tuple[int, float]],
    tokens: int,
    choose: Choose = best,
) -> Answer:
    """Greedy answer of a stock model that prunes at each of `cuts`: K, and the fraction of visual tokens that stays.

    inputs: what its processor makes of the prompt. visual: which tokens may go, bool [S].
    """
    layers = model.get_decoder().layers
    stays = torch.ones_like(visual)
    kept: list[int] = []
    said: list[int] = []
    handles: list[Any] = []
    first = torch.empty(0)
    try:
        for (layer, keep), stop in zip(cuts, [*(layer for layer, _ in cuts[1:]), len(layers)], strict=True):
            # Of a layer that rows were taken out of, attention is among those that are left.
            weights = model(**inputs, output_attentions=True, use_cache=False).attentions[layer - 1]
            rows = stays.nonzero()[:, 0]
            places = rows[visual[rows]]
            chosen = choose(weights[0].mean(0)[-1, visual[rows]], round(keep * int(visual.sum())))
            stays = ~visual
            stays[places[chosen]] = True
            kept = (torch.cumsum(visual, 0) - 1)[stays & visual].tolist()
            handles += _taken_out(layers[layer:stop], stays)
        handles.append(_said_as_text(model, said))
        for _ in range(tokens):
            logits = model(**_continued(inputs, said), use_cache=False).logits[0, -1]
            first = first if said else logits
            said.append(int(logits.argmax()))
    finally:
        for handle in handles:
            handle.remove()
    return Answer(kept, first, said)


def _continued(inputs: dict[str, torch.Tensor], said: list[int]) -> dict[str, torch.Tensor]:
    """The inputs of the prompt, and a 0 for every token that was said after it."""
    more = torch.zeros((1, len(said)), dtype=torch.int64)
    filled = {"input_ids": more, "attention_mask": torch.ones_like(more), "mm_token_type_ids": more}
    return {
        name: torch.cat([each, filled[name].to(each.dtype)], 1) if name in filled else each
        for name, each in inputs.items()
    }


def _said_as_text(model: Any, said: list[int]) -> Any:
    """A hook by which the last embeddings are of `said`. Among the ids a placeholder, which models of random weights
    say at times, would ask for an image that is not there; behind a cache transformers takes it as text, too."""

    def put(embed: Any, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not said:
            return embedded
        return torch.cat([embedded[:, : -len(said)], embed.forward(torch.tensor([said]))], 1)

    return model.get_input_embeddings().register_forward_hook(put)


def _taken_out(layers: Any, stays: torch.Tensor) -> list[Any]:
    """Hooks by which layers see only the rows that stay and all after them; each leaves NaN in the place of the rest,
    so that a row that is gone and yet read spoils the answer."""

    def rows(length: int) -> torch.Tensor:
        return torch.cat([stays, torch.ones(length - len(stays), dtype=torch.bool)])

    def take(_: Any, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> Any:
        (hidden,) = args
        left = rows(hidden.shape[1])
        count = int(left.sum())
        causal = torch.full((count, count), torch.finfo(hidden.dtype).min).triu(1)[None, None]
        turns = tuple(table[..., left, :] for table in kwargs["position_embeddings"])
        return (hidden[:, left],), {**kwargs, "position_embeddings": turns, "attention_mask": causal}

    def put_back(_: Any, __: Any, kwargs: dict[str, Any], hidden: torch.Tensor) -> torch.Tensor:
        length = len(stays) + hidden.shape[1] - int(stays.sum())
        whole = torch.full((1, length, hidden.shape[-1]), torch.nan)
        whole[:, rows(length)] = hidden
        return whole

    handles = [each.register_forward_pre_hook(take, with_kwargs=True) for each in layers]
    return handles + [each.register_forward_hook(put_back, with_kwargs=True) for each in layers]
