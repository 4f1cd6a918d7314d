"""Where the projector begins: a visual token is the mean of the embeddings of the words for what its patch shows.

A pretrained decoder then meets pictures as text that it already reads (" red", " star"; "." for background), with the
words of the patch's place (" top", " left") at a part of their length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import PreTrainedTokenizerFast

from demo.labels import GROUPS

_PLACE = 0.25  # share of a place's words, beside 1 for what is there
_CENTRE = 0.2  # share of " object" on the patch that holds an object's centre: one an object, for counting


def word_means(labels: Tensor, table: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Targets fp32 [N, 144, D] for labels int8 [N, groups, 144] (demo/labels.py), of an embedding table [V, D]."""

    def rows(name: str) -> Tensor:
        return table[[tokenizer.encode(f" {word}")[-1] for word in GROUPS[name]]]

    def words(name: str) -> Tensor:
        label = labels[:, list(GROUPS).index(name)].long()
        return rows(name)[label.clamp(min=0)] * (label >= 0)[..., None]

    presence = (labels[:, 0] == 1)[..., None]
    # A digit's own word takes the place of " number".
    digit = (labels[:, list(GROUPS).index("digit")] >= 0)[..., None]
    noun = torch.where(digit, words("digit"), words("shape"))
    background = table[tokenizer.encode(".")[0]]
    shown = torch.where(presence, (words("color") + noun) / 2, background)
    centre = rows("presence")[1] * (labels[:, list(GROUPS).index("anchor")] >= 0)[..., None]
    return shown + _PLACE * (words("row") + words("column")) + _CENTRE * centre


def fit(projector: nn.Module, features: Tensor, targets: Tensor, *, steps: int = 1500, seed: int = 0) -> float:
    """Regress targets [N, D] on tower features [N, F] in place; the last mean share of the variance that is left."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=0.0, weight_decay=0.0)
    variance = targets.float().var(dim=0).mean()
    left = 1.0
    for step in range(steps):
        rate = 3e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        picked = torch.randint(len(features), (1024,), generator=generator)
        loss = mse_loss(projector(features[picked].float()), targets[picked].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        left = 0.95 * left + 0.05 * (loss.detach() / variance).item()
    return left
