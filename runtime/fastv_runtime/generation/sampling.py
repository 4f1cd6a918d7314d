"""From logits to the next token: greedy, or temperature, top-k and top-p sampling from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime import limits
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.arguments import whole_number

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
        if self.temperature != 0:
            _check("temperature", self.temperature, limits.COOLEST, limits.HOTTEST, "0 (greedy) or a number")
        whole_number("top_k", self.top_k, 0)
        _check("top_p", self.top_p, 0, 1, "a number", above=True)
        whole_number("seed", self.seed, 0)
        if self.repetition_penalty is not None:
            _check(
                "repetition_penalty",
                self.repetition_penalty,
                limits.SMALLEST_PENALTY,
                limits.LARGEST_PENALTY,
                "a number",
            )


def choose_sampling(
    sampling: Sampling | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    repetition_penalty: float | None,
) -> Sampling:
    """What was asked for, by one object or by keywords; None is what was not given.

    Raises UserError for both at once, and for what changes nothing since the likeliest token is taken.
    """
    given = {
        name: value
        for name, value in (
            ("temperature", temperature),
            ("top_k", top_k),
            ("top_p", top_p),
            ("seed", seed),
            ("repetition_penalty", repetition_penalty),
        )
        if value is not None
    }
    if sampling is not None:
        if not isinstance(sampling, Sampling):
            raise UserError(f"sampling: a value of type {type(sampling).__name__} where a Sampling is expected")
        if given:
            raise UserError(f"`{next(iter(given))}`: give it in sampling, or all of it by keywords")
        return sampling
    chosen = Sampling(**given)  # type: ignore[arg-type]
    for name in ("top_k", "top_p", "seed"):
        if chosen.temperature == 0 and name in given:
            raise UserError(
                f"`{name}` {given[name]}: changes nothing, since the likeliest token is taken: give `temperature`, "
                "or leave it out"
            )
    return chosen


def _check(name: str, value: float, least: float, most: float, what: str, *, above: bool = False) -> None:
    """Raises UserError for what is no number within the bounds; `above`: the lower one itself is none either."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not least <= value <= most or (above and value == least):
        limits = f"above {least:g} and at most {most:g}" if above else f"{least:g} to {most:g}"
        shown = f"{value:g}" if isinstance(value, float) and value.is_integer() else repr(value)
        raise UserError(f"`{name}` {shown}: must be {what}, {limits}")


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
