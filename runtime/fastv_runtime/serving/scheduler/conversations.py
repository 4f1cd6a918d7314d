"""Conversations that have no slot: their caches copied out, the most recently used ones, bounded in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from fastv_runtime.generation.held import SavedConversation
from fastv_runtime.generation.model import PreparedPrompt


@dataclass(eq=False)
class KeptConversation:
    """A conversation, and how many tokens its last prompt had."""

    saved: SavedConversation
    prompt: int


class Conversations:
    """The most recently used conversations. limit: bytes at most; 0 keeps none. For the worker's thread alone."""

    def __init__(self, limit: int):
        self._limit = limit
        self._kept: list[KeptConversation] = []  # the least recently used first
        self.nbytes = 0
        """Of those that are kept."""

    @property
    def off(self) -> bool:
        """Whether nothing is ever kept: then there is no need to copy anything."""
        return not self._limit

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, saved: SavedConversation, prompt: int) -> None:
        """Keep one, and forget the least recently used ones that have no room beside it.

        What alone is too large is not kept, and drives out nothing else.
        """
        if saved.nbytes > self._limit:
            return
        while self.nbytes + saved.nbytes > self._limit:
            self._remove(self._kept[0])
        self._kept.append(KeptConversation(saved, prompt))
        self.nbytes += saved.nbytes

    def best(self, prepared: PreparedPrompt) -> tuple[KeptConversation | None, int]:
        """The one that holds the most of a prompt's start, and how many tokens of it; None where none holds any."""
        found, most = None, 0
        for kept in self._kept:
            common = kept.saved.common(prepared)
            if common >= most and common:  # of equals the most recently used
                found, most = kept, common
        return found, most

    def used(self, kept: KeptConversation, common: int) -> None:
        """One was restored to a slot, for a prompt that has so many tokens in common with it.

        A prompt that continues all of it will be kept in its place; one that begins like it is another conversation.
        """
        self._remove(kept)
        if common < kept.prompt:
            self._kept.append(kept)
            self.nbytes += kept.saved.nbytes

    def _remove(self, kept: KeptConversation) -> None:
        self._kept.remove(kept)
        self.nbytes -= kept.saved.nbytes
