"""From a question to token ids: chat template, tokenizer, and one placeholder token per visual token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from fastv_runtime.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt. `visual` marks the placeholders, whose embeddings are image features."""

    token_ids: Int[np.ndarray, " S"]
    visual: Bool[np.ndarray, " S"]
    image_starts: tuple[int, ...]
    """Index of each picture's first placeholder."""


class PromptBuilder:
    """Builds prompts as transformers' processors do, without torch.

    `directory` holds the tokenizer's files as the checkpoint had them.
    """

    def __init__(self, directory: Path, image_token_id: int):
        from transformers import AutoTokenizer

        self.tokenizer: Any
        self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        self.image_token_id = image_token_id
        self.image_token = str(self.tokenizer.convert_ids_to_tokens(image_token_id))
        if not self.tokenizer.chat_template:
            self.tokenizer.chat_template = _legacy_template(directory)

    def build(self, text: str, tokens_per_image: list[int]) -> Prompt:
        """Prompt of one user turn. Pictures come first unless `text` places them with the image token itself."""
        if not text.strip():
            raise UserError("the prompt is empty: ask something with --prompt")
        rendered = self._render(text, len(tokens_per_image))
        parts = rendered.split(self.image_token)
        if len(parts) - 1 != len(tokens_per_image):
            raise UserError(
                f"the prompt has {len(parts) - 1} {self.image_token} for {len(tokens_per_image)} pictures: "
                "write as many, or none to have the pictures come first"
            )
        expanded = parts[0]
        for count, part in zip(tokens_per_image, parts[1:], strict=True):
            expanded += self.image_token * count + part
        # A template that writes the first special token itself must not get it twice.
        bos = self.tokenizer.bos_token
        special = not (bos and expanded.startswith(bos))
        token_ids = np.asarray(self.tokenizer(expanded, add_special_tokens=special)["input_ids"], np.int64)
        visual = token_ids == self.image_token_id
        ends = np.cumsum(tokens_per_image, dtype=np.int64)
        positions = np.flatnonzero(visual)
        starts = tuple(int(positions[end - count]) for end, count in zip(ends, tokens_per_image, strict=True))
        return Prompt(token_ids, visual, starts)

    def _render(self, text: str, images: int) -> str:
        placed = self.image_token in text
        if not self.tokenizer.chat_template:
            return text if placed else self.image_token * images + text
        content = [] if placed else [{"type": "image"}] * images
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
            tokenize=False,
            add_generation_prompt=True,
        )


def _legacy_template(directory: Path) -> str | None:
    """Checkpoints saved by transformers 4 keep the processor's template in a JSON file of its own."""
    file = directory / "chat_template.json"
    return json.loads(file.read_text(encoding="utf-8"))["chat_template"] if file.is_file() else None
