"""Strings that end an answer: found in text that comes in pieces, of which none shows any part of one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.arguments import check_unicode

MOST = 4
"""As many as OpenAI's API takes."""
LONGEST = 1000
"""Characters of one: more than anybody would have a model write for nothing."""


def read_stop(stop: str | Iterable[str] | None) -> tuple[str, ...]:
    """One stop string, several, or none. Raises UserError for more than MOST, and for what is no text, or empty."""
    if stop is None:
        return ()
    given: Any = [stop] if isinstance(stop, str) else stop
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Iterable):
        raise UserError(f"`stop`: a value of type {type(given).__name__} where a text or a list of them is expected")
    found = tuple(given)
    if len(found) > MOST:
        raise UserError(f"`stop`: {len(found)} stop strings: at most {MOST} are possible")
    for each in found:
        if not isinstance(each, str):
            raise UserError(f"`stop`: a value of type {type(each).__name__} where text is expected")
        check_unicode("`stop`", each)
        if not 0 < len(each) <= LONGEST:
            raise UserError(f"`stop`: a stop string of {len(each)} characters: must have 1 to {LONGEST}")
    return found


class StopStrings:
    """Lets text through up to the first stop string, whatever pieces it comes in.

    The first is the one that is complete first; of several that end together, the longest. What may yet become one is
    held back until it cannot.
    """

    def __init__(self, strings: Sequence[str]):
        self._strings = strings
        self._held = ""
        self.found = False
        """Whether there was one: nothing comes after it."""

    def __call__(self, piece: str) -> str:
        """What is sure to be before any stop string, of all text that came so far and was not yet returned."""
        text = self._held + piece
        ends = [(start + len(each), start) for each in self._strings if (start := text.find(each)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        kept = len(text) - max((_begun(text, each) for each in self._strings), default=0)
        self._held = text[kept:]
        return text[:kept]

    def rest(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, string: str) -> int:
    """Characters of the longest end of `text` with which `string` begins, and is not yet complete."""
    return next((size for size in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:size])), 0)
