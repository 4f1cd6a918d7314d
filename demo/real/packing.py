"""Many questions on one picture in one sequence, each as if it were alone: the stock forward with a mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo.model import VISUAL
from demo.questions import Question
from demo.real.language import IMAGE, TEMPLATE

IGNORED = -100


@dataclass(frozen=True)
class Packed:
    """Q questions after a prefix of P tokens, T tokens in all: row t sees the prefix and its own question."""

    ids: Tensor  # [T] int64; the image's placeholder where the visual tokens go
    positions: Tensor  # [T] int64; each question begins at P
    owners: Tensor  # [T] int64; index of the question, -1 in the prefix
    targets: Tensor  # [T] the next token where it belongs to the answer or ends it, else -100

    def mask(self) -> Tensor:
        """bool [1, 1, T, T], True where the row sees the column."""
        own = (self.owners[:, None] == self.owners) | (self.owners == -1)
        return (own & torch.ones_like(own).tril())[None, None]


class Packer:
    """Encodes questions exactly as the processor does at inference."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.image: int = tokenizer.get_vocab()[IMAGE]
        ids = self._conversation("", None)
        self.first_visual = ids.index(self.image)
        self.prefix = ids[: self.first_visual] + [self.image] * VISUAL
        self.encode = lru_cache(maxsize=100_000)(self._encode)

    def _conversation(self, question: str, answer: str | None) -> list[int]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        text: Any = self.tokenizer.apply_chat_template(
            messages, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True
        )
        if answer is not None:
            text += f"{answer}{self.tokenizer.eos_token}"
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def _encode(self, question: str, answer: str) -> tuple[list[int], int]:
        """Tokens after the picture, and how many of them are prompt."""
        prompt, whole = self._conversation(question, None), self._conversation(question, answer)
        assert whole[: len(prompt)] == prompt
        skip = self.first_visual + 1
        return whole[skip:], len(prompt) - skip

    def pack(self, questions: list[Question]) -> Packed:
        """One sequence of the picture and `questions` with their answers."""
        start = len(self.prefix)
        ids, owners, targets = list(self.prefix), [-1] * start, [IGNORED] * start
        positions = list(range(start))
        for owner, question in enumerate(questions):
            tokens, prompt = self.encode(question.text, question.answer)
            count = len(tokens) - 1  # the end token is never an input
            ids += tokens[:-1]
            positions += range(start, start + count)
            owners += [owner] * count
            targets += [IGNORED] * (prompt - 1) + tokens[prompt:]
        return Packed(*(torch.tensor(x) for x in (ids, positions, owners, targets)))


def states(decoder: torch.nn.Module, packed: Packed, visual: Tensor, image: int) -> Tensor:
    """Final states [T, D] of a packed sequence with visual tokens [144, D] in place of the placeholder `image`."""
    embedded = decoder.get_input_embeddings()(packed.ids)  # type: ignore[operator]
    here = (packed.ids == image)[:, None]
    embedded = embedded.masked_scatter(here, visual.to(embedded.dtype))
    hidden: Tensor = decoder(
        inputs_embeds=embedded[None],
        attention_mask=packed.mask(),
        position_ids=packed.positions[None],
        use_cache=False,
    ).last_hidden_state[0]
    return hidden
