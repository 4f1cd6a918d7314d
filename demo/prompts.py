"""Tokens of a prompt as the chat template lays them out, cut where the picture ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo.model import VISUAL
from demo.questions import Question

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Questions as rows of tokens, padded at the end; B pictures with Q questions each."""

    ids: Tensor  # [B, Q, T] tokens after the picture: question, answer
    targets: Tensor  # [B, Q, T] the next token where it belongs to the answer or ends it, else -100
    last: Tensor  # [B, Q] index in T of the last prompt token
    patches: Tensor  # [B, Q, 144] share of each visual token in what is asked about; sums to 1 or 0
    kinds: list[list[str]]  # [B][Q]


class Prompter:
    """Encodes questions exactly as `processor.apply_chat_template` and the tokenizer do at inference."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        image = tokenizer.get_vocab()["<image>"]
        ids = self._conversation("", None)
        self.first_visual = ids.index(image)
        self.prefix_ids = torch.tensor(ids[: self.first_visual] + [image] * VISUAL)
        self.encode = lru_cache(maxsize=100_000)(self._encode)

    def _conversation(self, question: str, answer: str | None) -> list[int]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        text: Any = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if answer is not None:
            text += f" {answer}{self.tokenizer.eos_token}"
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def _encode(self, question: str, answer: str) -> tuple[list[int], int]:
        """Tokens after <image>, and how many of them are prompt."""
        prompt, whole = self._conversation(question, None), self._conversation(question, answer)
        assert whole[: len(prompt)] == prompt
        skip = self.first_visual + 1
        return whole[skip:], len(prompt) - skip

    def batch(self, questions: list[list[Question]]) -> Batch:
        """Rows of tokens for [B][Q] questions."""
        encoded = [[self.encode(q.text, q.answer) for q in row] for row in questions]
        b, q = len(encoded), len(encoded[0])
        t = max(len(ids) for row in encoded for ids, _ in row) - 1  # the end token is never an input
        ids = torch.full((b, q, t), self.tokenizer.pad_token_id)
        targets = torch.full((b, q, t), IGNORED)
        last = torch.empty(b, q, dtype=torch.long)
        patches = torch.zeros(b, q, VISUAL)
        for i, row in enumerate(encoded):
            for j, (tokens, prompt) in enumerate(row):
                tokens_ = torch.tensor(tokens)
                ids[i, j, : len(tokens) - 1] = tokens_[:-1]
                targets[i, j, prompt - 1 : len(tokens) - 1] = tokens_[prompt:]
                last[i, j] = prompt - 1
                about = questions[i][j].patches
                if about:
                    patches[i, j, list(about)] = 1 / len(about)
        return Batch(ids, targets, last, patches, [[q.kind for q in row] for row in questions])
