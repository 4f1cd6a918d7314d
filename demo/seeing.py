"""Phase one: teach tower and projector what is on each patch, in the decoder's own words.

A visual token is asked to be the sum of the embeddings of the words that describe it (" red", " star",
" top", " left"), so that the decoder meets pictures as text it already has words for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from demo.labels import GROUPS
from demo.model import image_features
from demo.pool import Pool
from demo.state import Run, learning_rate

_SHARPNESS = 8.0  # scales feature . embedding to a logit; embeddings have a norm of about one


class Words:
    """The rows of the embedding table that the groups name."""

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        table = model.model.language_model.embed_tokens.weight.detach()
        self.groups = []
        for words in GROUPS.values():
            ids = [tokenizer.encode(f" {word}") for word in words]
            assert all(len(i) == 1 for i in ids), f"not one token each: {words}"
            self.groups.append(table[[i[0] for i in ids]].clone())

    def target(self, labels: Tensor) -> Tensor:
        """Sum of the embeddings [B, 144, D] of the words that labels [B, groups, 144] name."""
        total = torch.zeros(())
        for index, rows in enumerate(self.groups):
            if index == 0:  # presence is told apart below; "object" itself is no part of the sum
                rows = rows * torch.tensor([[1.0], [0.0]])
            label = labels[:, index].long()
            total = total + rows[label.clamp(min=0)] * (label >= 0)[..., None]
        return total


def seeing_loss(
    model: LlavaForConditionalGeneration, words: Words, pixels: Tensor, labels: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Distance to the target sums plus a choice within each group; and the accuracy of each group."""
    features = image_features(model, pixels).float()
    difference = (features - words.target(labels)).square().sum(-1)
    weight = torch.where(labels[:, 0] == 1, 4.0, 0.5)  # objects cover one patch in eight
    loss = (difference * weight).mean()
    accuracy = {}
    for index, (name, rows) in enumerate(zip(GROUPS, words.groups, strict=True)):
        if name == "anchor":
            continue
        label = labels[:, index].long()
        logits = (features @ rows.T) * _SHARPNESS
        if name == "presence":
            logits = torch.cat([logits[..., :1], _SHARPNESS - logits[..., :1]], dim=-1)
        here = label >= 0 if name in ("color", "shape", "digit", "presence") else labels[:, 0] == 1
        if not here.any():
            continue
        scale = {"digit": 1.0, "shape": 1.0, "color": 0.7}.get(name, 0.3)
        loss = loss + scale * cross_entropy(logits[here], label[here])
        accuracy[name] = (logits[here].argmax(-1) == label[here]).float().mean().item()
    return loss, accuracy


def normalise(images: np.ndarray) -> Tensor:
    """uint8 [B, 168, 168, 3] to the processor's pixel values [B, 3, 168, 168]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def see_phase(run: Run, pool: Pool, *, steps: int, batch: int = 32, peak: float = 1e-3) -> None:
    """Train tower and projector on the pool's patch labels."""
    model = run.model
    words = Words(model, run.processor.tokenizer)
    parameters = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    optimizer = run.optimizer(parameters, "see")
    smooth: dict[str, float] = {}
    for step in run.steps("see", steps, optimizer):
        rng = np.random.default_rng([run.seed, 1, step])
        picked = rng.integers(len(pool.images), size=batch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak, decay=0.6)
        with torch.autocast("cpu", torch.bfloat16):
            loss, accuracy = seeing_loss(
                model, words, normalise(pool.images[picked]), torch.from_numpy(pool.labels[picked])
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for name, value in {"loss": loss.item(), **accuracy}.items():
            smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
        if (step + 1) % 100 == 0:
            run.console.print(f"see {step + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in smooth.items()))
