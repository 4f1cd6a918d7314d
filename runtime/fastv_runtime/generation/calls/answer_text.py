"""The text of an answer as its tokens come."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from fastv_runtime.generation.calls.stop_strings import StopStrings


class AnswerText:
    """Tokens in, pieces of text out, which never split a character and show no part of a stop string.

    A stop string that is a special token's name, and so in no text, is that token.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = StopStrings(stop)
        self._special = {token for each in stop if (token := _special(tokenizer, each)) is not None}
        self._decoded = 0

    def add(self, token: int) -> str:
        """The text that is sure once this token is there."""
        if token in self._special:
            self._stop.found = True
            return self._stop.rest()
        if self._stop.found:
            return ""
        piece = self._stream.step(self._tokenizer, token) or ""
        self._decoded += len(piece)
        return self._stop(piece)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found. No text comes after it."""
        return self._stop.found

    def end(self, tokens: Sequence[int]) -> str:
        """The rest of the text of all tokens, if they were not stopped.

        What the stream still holds back, half a character at the length limit, is in the full decode.
        """
        whole = self._tokenizer.decode(tokens, skip_special_tokens=True)
        piece = self._stop(whole[self._decoded :])
        return piece if self.stopped else piece + self._stop.rest()


def _special(tokenizer: Tokenizer, name: str) -> int | None:
    """The token of that name, if it is left out of texts."""
    token = tokenizer.token_to_id(name)
    if token is None or tokenizer.decode([token], skip_special_tokens=True):
        return None
    return int(token) if tokenizer.decode([token], skip_special_tokens=False) else None
