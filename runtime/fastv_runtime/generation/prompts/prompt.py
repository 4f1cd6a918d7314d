"""From a question to token ids: chat template, tokenizer, and one placeholder token per visual token."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.config.bundle import Tokens
from fastv_runtime.errors import UserError
from fastv_runtime.generation.prompts.chat_template import Turn, chat_template, conversation, takes_parts
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

    def build(self, text: str, visuals: Sequence[Visual], *, system: str | None = None) -> Prompt:
        """Prompt of one user turn. Visuals come first unless `text` places them with the model's own tokens.

        system: a message that stands before it. Raises UserError for an empty text, and for one that does not place
        each visual once.
        """
        if not text.strip():
            raise UserError("the prompt is empty: ask something with `prompt`")
        kinds = [] if any(marker in text for marker in self._markers.values()) else [each.kind for each in visuals]
        if not self.tokenizer.chat_template and system is None:
            return self._expand("".join(self._markers[kind] for kind in kinds) + text, visuals)
        turns = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]
        return self.build_conversation([*turns, {"role": "user", "content": content}], visuals)

    def build_conversation(self, turns: Sequence[Turn], visuals: Sequence[Visual]) -> Prompt:
        """Prompt of several turns, whose parts are as `calls.messages.Conversation` has them.

        The visuals of one kind are in the order of their places. Raises UserError where the chat template has no place
        for what is in a turn, and for a text that has the model's own tokens for images beside such places.
        """
        if not self.tokenizer.chat_template:
            raise UserError("the checkpoint has no chat template: write all that the model reads into `prompt`")
        rendered = conversation(self.tokenizer, turns, parts=self._parts)
        if any(visual.kind == "video" for visual in visuals) and self._markers["video"] not in rendered:
            # SmolVLM2's published templates know images only: the video is written as text, where it would stand.
            turns = [{**turn, "content": self._videos_as_text(turn["content"])} for turn in turns]
            rendered = conversation(self.tokenizer, turns, parts=self._parts)
        return self._expand(rendered, visuals)

    def _videos_as_text(self, content: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
        """The parts, with the marker of each video before the text that follows it."""
        parts: list[Mapping[str, str]] = []
        before = ""
        for part in content:
            if part["type"] == "video":
                before += self._markers["video"]
            elif part["type"] == "text":
                parts.append({"type": "text", "text": before + part["text"]})
                before = ""
            else:
                parts.append(part)
        return [*parts, {"type": "text", "text": before}] if before else parts

    def _expand(self, rendered: str, visuals: Sequence[Visual]) -> Prompt:
        """Tokens of a rendered prompt, each marker in it replaced by what stands for its visual."""
        waiting = {kind: [i for i, each in enumerate(visuals) if each.kind == kind] for kind in ("image", "video")}
        order: list[int] = []
        expanded, typed = "", False
        for part in re.split("(" + "|".join(map(re.escape, self._markers.values())) + ")", rendered):
            kind = next((kind for kind, marker in self._markers.items() if part == marker), None)
            if kind is None:
                expanded += part
                typed = typed or any(placeholder in part for placeholder in self._placeholders.values())
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
        token_ids = np.asarray(
            self.tokenizer(expanded, add_special_tokens=special, verbose=False)["input_ids"], np.int64
        )
        visual = np.isin(token_ids, list(self._ids.values()))
        if visual.sum() != sum(run.tokens for each in visuals for run in each.runs):
            if typed:
                raise UserError(
                    "the prompt has the model's own token for a visual token in its text: leave it out, images and "
                    "videos stand where their markers are"
                )
            raise self._foreign("its placeholders for images are no tokens of their own")
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

    @cached_property
    def _parts(self) -> bool:
        return takes_parts(self.tokenizer)
