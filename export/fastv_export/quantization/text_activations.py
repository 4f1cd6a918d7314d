"""Activations by a text of our own, for int8 products and weights of four bits where no calibration is given.

Some inputs of a pretrained model's products are far larger than the others, whatever is said: a few hundred rows show
which. SmolLM2-135M in int8: the first token of 52 answers of 60 is that of fp32 without scales, of 59 with them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float

from fastv_export import hf
from fastv_export.families import Family
from fastv_export.quantization.activations import Activation, activations_of
from fastv_export.quantization.observer import Observer, Statistics, means
from fastv_runtime.generation.prompts.prompt import PromptBuilder

TOKENS = 320
"""Most of the text's that are read: a 13B model's rows of them stay small."""

TEXT = """\
The river rises in the hills to the north and runs for two hundred miles before it meets the sea. Towns grew up along \
its banks, because boats could carry grain and timber down to the harbour, and the water turned the wheels of mills. \
Today most of the mills are houses or museums.

How do I make an omelette? Beat three eggs with a pinch of salt, melt a little butter in a pan, pour in the eggs and \
stir gently until they begin to set. Fold it in half and serve it at once: 1) eggs, 2) butter, 3) salt.

def mean(values):
    \"\"\"The arithmetic mean of a list of numbers.\"\"\"
    total = 0.0
    for value in values:
        total += value
    return total / len(values) if values else None

In 1969, two men walked on the Moon for the first time; a third stayed in orbit. They brought back 21.5 kg of rocks, \
which were studied in laboratories in Houston, Paris, Tokyo and elsewhere. "That's one small step," said the first.

The picture shows a red bus in front of a brick house. What is written on its side? The number 42 and the name of a \
brewery.
"""


@torch.no_grad()
def text_activations(model: Any, family: Family, prompts: PromptBuilder, most: int | None) -> dict[str, Activation]:
    """By product of the decoder's layers; the head, which takes one row, has none.

    model: the stock one (`stream_model`), run once. most: positions that the model supports.
    Raises UserError where the runtime could not make a prompt of the text.
    """
    # As a prompt: what the template puts first is often what has the largest states.
    ids = prompts.build(TEXT, []).token_ids[: min(TOKENS, most or TOKENS)]
    decoder = family.decoder(model)
    statistics: Statistics = {}
    with Observer(decoder, family.head(model)).observed(statistics):
        hf.run_decoder(decoder, hf.embeddings_of(decoder)(torch.from_numpy(ids)[None]), None)
    found = activations_of({name: torch.from_numpy(array).float() for name, array in means(statistics).items()})
    return {name: replace(each, max_abs=_with_floor(each.max_abs)) for name, each in found.items()}


def _with_floor(sizes: Float[torch.Tensor, " I"]) -> Float[torch.Tensor, " I"]:
    """An input that is small here may be large elsewhere, in an image say: only large ones are told apart."""
    return sizes.clamp_min(float(sizes.median()))
