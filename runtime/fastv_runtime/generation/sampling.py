"""From logits to the next token: greedy, or temperature, top-k and top-p sampling from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime import limits
from fastv_runtime.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy; top_k 0 and top_p 1 cut nothing off.

    repetition_penalty: above 1, tokens of the prompt and the answer so far become less likely; None means what the
    checkpoint says, 1 none. Source: CTRL, arXiv 1909.05858, as transformers has it.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        # A number next to nothing, 1e-320, divides logits into infinities.
        if self.temperature != 0 and not limits.COOLEST <= self.temperature <= limits.HOTTEST:
            raise UserError(
                f"`temperature` {self.temperature}: must be 0 (greedy), or a number, {limits.COOLEST:g} to "
                f"{limits.HOTTEST:,}"
            )
        if self.top_k < 0:
            raise UserError(f"`top_k` {self.top_k}: must be 0 (off) or a positive count")
        if not 0 < self.top_p <= 1:
            raise UserError(f"`top_p` {self.top_p}: must be above 0 and at most 1")
        if self.seed < 0:
            raise UserError(f"`seed` {self.seed}: must be 0 or above")
        penalty = self.repetition_penalty
        if penalty is not None and not limits.SMALLEST_PENALTY <= penalty <= limits.LARGEST_PENALTY:
            raise UserError(
                f"`repetition_penalty` {penalty}: must be a number, {limits.SMALLEST_PENALTY:g} to "
                f"{limits.LARGEST_PENALTY}; 1 is none"
            )


class Sampler:
    """Draws tokens for one generation; the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling):
        self._sampling = sampling
        self._generator = np.random.default_rng(sampling.seed)

    @property
    def greedy(self) -> bool:
        """The likeliest token is always the one: graphs tell it themselves, and no logits are needed."""
        return self._sampling.temperature == 0

    def pick(self, logits: Float[np.ndarray, " vocab"]) -> int:
        """Token id chosen from the logits of one position."""
        if self.greedy:
            return int(np.argmax(logits))
        probabilities = distribution(logits, self._sampling)
        return int(self._generator.choice(probabilities.size, p=probabilities))


def distribution(logits: Float[np.ndarray, " vocab"], sampling: Sampling) -> Float[np.ndarray, " vocab"]:
    """Probabilities (float64, summing to 1) after temperature, then top-k, then top-p.

    Top-p keeps the smallest set of the likeliest tokens whose probability reaches p, at least one token.
    """
    scaled = logits.astype(np.float64) / sampling.temperature
    probabilities: np.ndarray = np.exp(scaled - scaled.max())
    order = np.argsort(-scaled, kind="stable")
    if 0 < sampling.top_k < order.size:
        probabilities[order[sampling.top_k :]] = 0
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        cumulative = np.cumsum(probabilities[order])
        last = int(np.searchsorted(cumulative, sampling.top_p))
        probabilities[order[last + 1 :]] = 0
        probabilities /= probabilities.sum()
    return probabilities
