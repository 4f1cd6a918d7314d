"""What is done to logits before a token is chosen: repeated tokens made less likely, others ruled out.

As transformers' logits processors of the same names do it, over the ids of the prompt (placeholders counted) and of
what was generated. Source: `transformers.generation.logits_process`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.config.generation_config import GenerationDefaults

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class LogitRules:
    """The rules of one generation.

    repetition_penalty: instead of the defaults' own; None leaves that.
    """

    def __init__(
        self,
        defaults: GenerationDefaults,
        prompt: Int[np.ndarray, " S"],
        stop: Collection[int],
        repetition_penalty: float | None = None,
    ):
        self._defaults = defaults
        self._prompt = prompt
        self._stop = list(stop)
        # A stop token alone is no bad word.
        self._bad_words = [words for words in defaults.bad_words_ids if len(words) > 1 or words[0] not in self._stop]
        self._penalty = defaults.repetition_penalty if repetition_penalty is None else repetition_penalty

    @property
    def idle(self) -> bool:
        """No logit is ever changed: the likeliest token is the one that the graph names."""
        unchanged = GenerationDefaults(max_new_tokens=self._defaults.max_new_tokens)
        defaults = self._defaults.model_copy(update={"repetition_penalty": 1.0})
        return self._penalty == 1 and defaults == unchanged

    def __call__(self, logits: Float[np.ndarray, " V"], generated: Sequence[int]) -> Float[np.ndarray, " V"]:
        """Logits (fp32) of the next token after `generated`; those given stay as they are."""
        if self.idle:
            return logits
        logits = logits.copy()
        ids = np.concatenate([self._prompt, np.asarray(generated, np.int64)])
        if self._penalty != 1:
            seen = np.unique(ids[ids < logits.size])
            scores = logits[seen]
            logits[seen] = np.where(scores < 0, scores * np.float32(self._penalty), scores / np.float32(self._penalty))
        logits[[token for token in self._banned(ids, len(generated)) if token < logits.size]] = -np.inf
        return logits

    def _banned(self, ids: Int[np.ndarray, " T"], generated: int) -> list[int]:
        defaults = self._defaults
        banned = [*repeated_ngrams(ids, defaults.no_repeat_ngram_size), *defaults.suppress_tokens]
        for *before, last in self._bad_words:
            if len(before) <= ids.size and ids[ids.size - len(before) :].tolist() == before:
                banned.append(last)
        if generated < defaults.min_new_tokens:
            banned += self._stop
        if generated == 0:
            banned += defaults.begin_suppress_tokens
        return banned


def repeated_ngrams(ids: Int[np.ndarray, " T"], size: int) -> list[int]:
    """Tokens that would make the last `size - 1` ids a sequence of `size` that was there before; 0 bans none."""
    if size == 0 or ids.size < size:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(ids, size)
    banned: list[int] = windows[(windows[:, :-1] == ids[ids.size - size + 1 :]).all(axis=1), -1].tolist()
    return banned
