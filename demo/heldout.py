"""Held-out questions: scenes from seeds that training never uses, digits in handwriting it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from demo.questions import KINDS, ask
from demo.scenes import draw_scene

SEED = 40_001
"""Of the questions that figures are reported on."""
VALIDATION_SEED = 20_001
"""Of the questions that choose the checkpoint during training: not the reported ones."""


@dataclass(frozen=True)
class Sample:
    """One held-out question; `patches` are indices into the 144 visual tokens (row-major) it hangs on."""

    image: Image.Image
    question: str
    answer: str
    kind: str
    patches: list[int]


def samples(n: int = 1000, seed: int = SEED) -> list[Sample]:
    """The first `n` samples of a seed: one question per scene, the kinds in turn."""
    return list(islice(stream(seed), n))


def stream(seed: int = SEED) -> Iterator[Sample]:
    """Endless samples of a seed, always the same."""
    rng = np.random.default_rng([seed])
    while True:
        for kind in KINDS:
            question = None
            while question is None:
                scene = draw_scene(rng, held_out=True)
                question = ask(rng, scene, kind)
            yield Sample(scene.image, question.text, question.answer, kind, list(question.patches))
