"""One question about an image, and the beginning of an answer: what an export asks a bundle and the stock model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image

from fastv_runtime.config.bundle import DecoderConfig, Tokens
from fastv_runtime.config.layouts import Vision
from fastv_runtime.config.lengths import capacity, pruned_lengths
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError
from fastv_runtime.generation.prompts.positions import position_ids
from fastv_runtime.generation.prompts.prompt import Prompt, PromptBuilder
from fastv_runtime.preprocessing import Visual, load_images

QUESTION = "What is in the picture?"
SIZE = (72, 96)
"""Height and width in pixels: neither square nor large, so that most layouts make few tokens of it."""

ANSWER = """\
The picture shows a small harbour in the early morning. Three fishing boats are tied to the quay, and an old man in a \
blue coat is mending a net. Behind him a narrow street climbs between white houses to a church. The sky is clear, but \
there are dark clouds over the sea.
"""
"""Not of the text that scales are made by (`text_activations`): by that one they would look better than they are."""
ANSWERED = 48
"""Most tokens of it. See `quantization_cost`."""


@dataclass(frozen=True)
class Question:
    """A prompt about one image, and tokens of an answer, which are decoded whatever a model would have said."""

    prompt: Prompt
    image: Visual
    token_ids: Int[np.ndarray, " S+T"]
    positions: Int[np.ndarray, "axes S+T"]
    pruned: tuple[int, ...]
    """M after each cut."""

    @property
    def length(self) -> int:
        """S."""
        return self.prompt.token_ids.size

    @property
    def answered(self) -> int:
        """T, at least one."""
        return self.token_ids.size - self.length


class NoRoom(UserError):
    """The plan supports no question."""


def ask(processor: Path, tokens: Tokens, vision: Vision, dimensions: DecoderConfig, plan: Plan) -> Question:
    """The question, as the runtime asks it. `processor`: the bundle's directory.

    Raises NoRoom where it is longer than the plan supports, and UserError where none can be asked at all, as
    the runtime would.
    """
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(SIZE[::-1], Image.Resampling.BILINEAR)
    seen = load_images(processor, vision)(image)
    builder = PromptBuilder(processor, tokens)
    prompt = _prompt(builder, tokens, seen)
    visual = int(prompt.visual.sum())
    try:
        pruned = pruned_lengths(plan, prompt.token_ids.size - visual, visual, plan.length, capacity(plan))
    except UserError as error:
        raise NoRoom(str(error)) from None
    answer = builder.tokenizer(ANSWER, add_special_tokens=False)["input_ids"][: min(ANSWERED, plan.max_new_tokens)]
    # A tokenizer may know none of it: then any token of text.
    token_ids = np.concatenate([prompt.token_ids, answer or prompt.token_ids[~prompt.visual][-1:]])
    positions = position_ids(dimensions.position_axes, token_ids.size, prompt.runs)
    return Question(prompt, seen, token_ids, positions, pruned)


def _prompt(builder: PromptBuilder, tokens: Tokens, image: Visual) -> Prompt:
    marker = builder.tokenizer.convert_ids_to_tokens(tokens.image)
    if marker is None:
        raise UserError(f"image_token_id {tokens.image} is no token of the tokenizer: mend config.json")
    try:
        return builder.build(QUESTION, [image])
    except UserError:
        # Where the template knows text alone, users place images themselves.
        return builder.build(f"{marker}\n{QUESTION}", [image])
