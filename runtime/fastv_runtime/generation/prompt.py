"""From a question to token ids: chat template, tokenizer, and one placeholder token per visual token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.config.bundle import Tokens
from fastv_runtime.errors import UserError
from fastv_runtime.generation.chat_template import chat_template, takes_parts, user_turn
from fastv_runtime.hf import load_tokenizer
from fastv_runtime.preprocessing import GraphRun, Visual

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt. `visual` marks the placeholders, whose embeddings are visual features."""

    token_ids: Int[np.ndarray, " S"]
    visual: Bool[np.ndarray, " S"]
    order: tuple[int, ...]
    """Which of the given visuals comes first in the prompt, and so on."""
    runs: tuple[tuple[int, GraphRun], ...]
    """Index of each run's first placeholder, and the run; in the prompt's order."""

    def starts(self, visuals: Sequence[Visual]) -> list[list[int]]:
        """Index of the first placeholder of every run of every visual."""
        places = iter(start for start, _ in self.runs)
        starts: list[list[int]] = [[] for _ in visuals]
        for index in self.order:
            starts[index] = [next(places) for _ in visuals[index].runs]
        return starts


class PromptBuilder:
    """Builds prompts as transformers' processors do, without torch.

    `directory` holds the tokenizer's files as the checkpoint had them. vocabulary: how many tokens the model knows;
    None means no less than the tokenizer. Raises UserError for files that are no tokenizer, or not the model's.
    """

    def __init__(self, directory: Path, tokens: Tokens, vocabulary: int | None = None):
        self.tokenizer = load_tokenizer(directory)
        self._directory, self._vocabulary = directory, vocabulary
        ids = {"image": tokens.image} | ({} if tokens.video is None else {"video": tokens.video})
        self._ids = ids
        self._placeholders = {kind: self._token(kind, token) for kind, token in ids.items()}
        self._markers = self._placeholders | ({"video": tokens.video_marker} if tokens.video_marker else {})
        self.tokenizer.chat_template = chat_template(directory, self.tokenizer)

    def build(self, text: str, visuals: Sequence[Visual]) -> Prompt:
        """Prompt of one user turn. Visuals come first unless `text` places them with the model's own tokens.

        Raises UserError for an empty text, and for one that does not place each visual once.
        """
        if not text.strip():
            raise UserError("the prompt is empty: ask something with `prompt`")
        waiting = {kind: [i for i, each in enumerate(visuals) if each.kind == kind] for kind in ("image", "video")}
        rendered = self._render(text, [visual.kind for visual in visuals])
        order: list[int] = []
        expanded = ""
        for part in re.split("(" + "|".join(map(re.escape, self._markers.values())) + ")", rendered):
            kind = next((kind for kind, marker in self._markers.items() if part == marker), None)
            if kind is None:
                expanded += part
            elif waiting[kind]:
                order.append(waiting[kind].pop(0))
                one = self._placeholders[kind]
                expanded += "".join(one * p.tokens if isinstance(p, GraphRun) else p for p in visuals[order[-1]].text)
            else:
                self._refuse(rendered, visuals)
        if len(order) != len(visuals):
            self._refuse(rendered, visuals)
        # A template that writes the first special token itself must not get it twice.
        bos = self.tokenizer.bos_token
        special = not (bos and expanded.startswith(bos))
        token_ids = np.asarray(self.tokenizer(expanded, add_special_tokens=special)["input_ids"], np.int64)
        visual = np.isin(token_ids, list(self._ids.values()))
        if visual.sum() != sum(run.tokens for each in visuals for run in each.runs):
            raise self._foreign("its placeholders for images are no tokens of their own, or stand in a text")
        if self._vocabulary is not None and token_ids.max() >= self._vocabulary:
            raise self._foreign(f"it makes token {token_ids.max()}, and the model knows {self._vocabulary}")
        runs = [run for index in order for run in visuals[index].runs]
        # Runs that touch (two images with no text between them) are told apart by their lengths.
        ends = np.cumsum([run.tokens for run in runs], dtype=np.int64)
        places = np.flatnonzero(visual)
        starts = [int(places[end - run.tokens]) for end, run in zip(ends, runs, strict=True)]
        return Prompt(token_ids, visual, tuple(order), tuple(zip(starts, runs, strict=True)))

    def _token(self, kind: str, token: int) -> str:
        name = self.tokenizer.convert_ids_to_tokens(token)
        if not isinstance(name, str):
            raise self._foreign(f"it has no token {token}, which stands for one visual token ({kind})")
        return name

    def _foreign(self, why: str) -> UserError:
        return UserError(
            f"{self._directory}: the tokenizer is not the model's: {why}: copy these files again, or export again"
        )

    def _refuse(self, rendered: str, visuals: Sequence[Visual]) -> None:
        for kind, name in (("image", "images"), ("video", "videos")):
            marker = self._markers.get(kind)
            found = rendered.count(marker) if marker else 0
            given = sum(visual.kind == kind for visual in visuals)
            if found != given:
                raise UserError(
                    f"the prompt has {found} {marker or kind} for {given} {name}: "
                    "write as many, or none to have them come first"
                )

    def _render(self, text: str, kinds: list[str]) -> str:
        placed = any(marker in text for marker in self._markers.values())
        if not self.tokenizer.chat_template:
            return text if placed else "".join(self._markers[kind] for kind in kinds) + text
        content = [] if placed else [{"type": kind} for kind in kinds]
        rendered = self._apply_template(content, text)
        if "video" in kinds and not placed and self._markers["video"] not in rendered:
            # SmolVLM2's published templates know images only: the video is written as text, where it would stand.
            content = [part for part in content if part["type"] != "video"]
            return self._apply_template(content, self._markers["video"] * kinds.count("video") + text)
        return rendered

    def _apply_template(self, content: list[dict[str, str]], text: str) -> str:
        return user_turn(self.tokenizer, [*content, {"type": "text", "text": text}], parts=self._parts)

    @cached_property
    def _parts(self) -> bool:
        return takes_parts(self.tokenizer)
