"""Exact match of greedy answers on validation questions, in torch: what training watches."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from demo import heldout
from demo.model import image_features, read_questions
from demo.prompts import IGNORED, Prompter
from demo.questions import Question

_BATCH = 50


@dataclass(frozen=True)
class HeldOut:
    """Held-out questions with the pixel values [N, 3, 168, 168] the processor makes of their pictures."""

    pixels: Tensor
    questions: list[Question]


def held_out_set(processor: LlavaProcessor, count: int) -> HeldOut:
    """The first `count` validation samples."""
    samples = heldout.samples(count, heldout.VALIDATION_SEED)
    pixels = processor.image_processor([s.image for s in samples], return_tensors="pt")["pixel_values"]
    return HeldOut(pixels, [Question(s.kind, s.question, s.answer, tuple(s.patches)) for s in samples])


@torch.no_grad()
def accuracy_of(model: LlavaForConditionalGeneration, prompter: Prompter, held_out: HeldOut) -> dict[str, float]:
    """Share of answers that greedy decoding gets right to the last token, for "all" and per kind.

    Each answer token is predicted after the right answer so far: all of them are right exactly when greedy
    decoding is.
    """
    hits: dict[str, list[bool]] = defaultdict(list)
    embed = model.get_input_embeddings()
    for start in range(0, len(held_out.questions), _BATCH):
        questions = held_out.questions[start : start + _BATCH]
        rows = prompter.batch([[question] for question in questions])
        features = image_features(model, held_out.pixels[start : start + _BATCH])
        opening = embed(prompter.prefix_ids[: prompter.first_visual]).expand(len(features), -1, -1)
        states, _ = read_questions(
            model,
            torch.cat([opening, features], dim=1),
            embed(rows.ids),
            prompter.first_visual,
        )
        right = (model.lm_head(states).argmax(-1) == rows.targets) | (rows.targets == IGNORED)
        for question, hit in zip(questions, right[:, 0].all(-1).tolist(), strict=True):
            hits["all"].append(hit)
            hits[question.kind].append(hit)
    return {kind: sum(found) / len(found) for kind, found in hits.items()}
