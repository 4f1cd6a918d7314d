"""Held-out questions: scenes from seeds that training never uses, digits in handwriting it never saw."""

from __future__ import annotations

from itertools import count, islice

import numpy as np

from demo.heldout import Sample
from demo.real.asking import KINDS, ask
from demo.scenes import draw_scene

SEED = 41_001
"""Of the questions that figures are reported on."""
VALIDATION_SEED = 21_001
"""Of the questions that choose the weights during training."""
CALIBRATION_SEED = 61_001
"""Of the questions that choose a plan."""


def samples(n: int, seed: int = SEED) -> list[Sample]:
    """The first `n` samples of a seed: one question per scene, the kinds in turn."""
    rng = np.random.default_rng([seed])
    return list(islice((_sample(rng, KINDS[i % len(KINDS)]) for i in count()), n))


def _sample(rng: np.random.Generator, kind: str) -> Sample:
    while True:
        scene = draw_scene(rng, held_out=True)
        question = ask(rng, scene, kind)
        if question is not None:
            return Sample(scene.image, question.text, question.answer, kind, list(question.patches))
