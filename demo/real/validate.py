"""Exact match of greedy answers on validation questions, several on a scene: what training watches."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from demo.questions import Question
from demo.real.asking import KINDS, ask
from demo.real.heldout import VALIDATION_SEED
from demo.real.packing import IGNORED, Packer, states
from demo.scenes import Scene, draw_scene


def validation_scenes(count: int) -> list[tuple[Scene, list[Question]]]:
    """`count` held-out scenes, each with one question of every kind that can be asked about it."""
    rng = np.random.default_rng([VALIDATION_SEED])
    found = []
    for _ in range(count):
        scene = draw_scene(rng, held_out=True)
        found.append((scene, [q for kind in KINDS if (q := ask(rng, scene, kind)) is not None]))
    return found


@torch.no_grad()
def accuracy_of(
    model: LlavaForConditionalGeneration, packer: Packer, features: Tensor, asked: list[list[Question]]
) -> dict[str, float]:
    """Share of answers that greedy decoding gets right to the last token, for "all" (mean over kinds) and per kind.

    Each answer token is predicted after the right answer so far: all of them are right exactly when greedy decoding is.
    """
    hits: dict[str, list[bool]] = defaultdict(list)
    for row, questions in zip(features, asked, strict=True):
        packed = packer.pack(questions)
        visual = model.model.multi_modal_projector(row.float())
        hidden = states(model.model.language_model, packed, visual, packer.image)
        at = packed.targets != IGNORED
        right = model.lm_head(hidden[at]).argmax(-1) == packed.targets[at]
        owners = packed.owners[at]
        for index, question in enumerate(questions):
            hits[question.kind].append(bool(right[owners == index].all()))
    accuracy = {kind: sum(found) / len(found) for kind, found in sorted(hits.items())}
    return {"all": sum(accuracy.values()) / len(accuracy), **accuracy}


def describe_accuracy(accuracy: dict[str, float]) -> str:
    return ", ".join(f"{kind} {share:.1%}" for kind, share in accuracy.items())
