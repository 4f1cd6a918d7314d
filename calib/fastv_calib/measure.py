"""What one sample tells of every plan."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float, Int

from fastv_calib.data import Sample
from fastv_calib.inputs import InputMaker
from fastv_calib.masks import packed
from fastv_calib.rankers import kept
from fastv_calib.sweep import Dense, Sweep
from fastv_export.calibration import Point, Settings
from fastv_export.families import Family
from fastv_export.rankers import RANKERS
from fastv_export.unrotated import check_projections
from fastv_runtime.errors import UserError
from fastv_runtime.images import open_image
from fastv_runtime.lengths import kept_count
from fastv_runtime.schema import Model


class Outcome(Model):
    """One plan on one sample, against the unpruned model."""

    first: bool
    """The likeliest first token is the same."""
    match: bool
    """So is every token of the answer."""
    kl: float
    """KL divergence of the first token's distribution from the unpruned one, in nats."""
    said: str | None = None
    """Where the answer is another: its text up to the first other token, and an ellipsis unless it ends there."""


class Measured(Model):
    """One sample: a line of the file of measurements."""

    key: str
    text: int
    visual: int
    """Tokens of the prompt."""
    answer: str
    """What the unpruned model says."""
    correct: bool | None
    """Whether that is the known answer, blanks around it aside; None if none is known."""
    attention: tuple[float, ...]
    outcomes: tuple[Outcome, ...]
    """In the order of `points`."""
    kept: str
    """Which visual tokens each plan keeps, in that order (`fastv_calib.masks`)."""


def points(settings: Settings) -> list[Point]:
    """The plans that are measured, in this order."""
    return [
        Point(layer=layer, keep=keep, ranker=ranker)
        for layer, keep, ranker in product(settings.layers, settings.keeps, settings.rankers)
    ]


class Measure:
    """Measures samples on one model."""

    def __init__(self, model: Any, family: Family, maker: InputMaker, settings: Settings, limit: int | None):
        """limit: positions that the model bears, None if no limit is known.

        Raises UserError for a ranker that this family's exports cannot have.
        """
        decoder = family.decoder(model)
        unrotated = [name for name in settings.rankers if not RANKERS[name].rotary]
        for name in unrotated:
            # What no export can have is not measured for hours first.
            check_projections(decoder.layers[0].self_attn, name, family.model_type)
        self._sweep = Sweep(decoder, family.head(model), settings.layers, unrotated=bool(unrotated))
        self._maker, self._settings, self._limit = maker, settings, limit

    def __call__(self, sample: Sample) -> Measured:
        """Raises UserError, which names the sample, for pictures and prompts that cannot be used."""
        try:
            inputs = self._maker([open_image(image) for image in sample.images], sample.prompt)
        except UserError as error:
            raise UserError(f"{sample.where}: {error}") from None
        length, visual = inputs.visual.numel(), int(inputs.visual.sum())
        if self._limit is not None and length + self._settings.answer_tokens > self._limit:
            raise UserError(
                f"{sample.where}: the prompt has {length} tokens and this model bears {self._limit}, answer included"
            )
        dense = self._sweep.dense(inputs, self._maker.stop, self._settings.answer_tokens)
        answer = self._maker.text(dense.tokens)
        outcomes, masks = [], []
        for layer, keep in product(self._settings.layers, self._settings.keeps):
            keeps = self._keeps(dense, layer, keep)
            outcomes += [self._outcome(dense, logits) for logits in self._sweep.pruned(dense, layer, keeps)]
            masks.append(_mask(keeps, inputs.visual))
        return Measured(
            key=sample.key,
            text=length - visual,
            visual=visual,
            answer=answer,
            correct=None if sample.answer is None else answer == sample.answer.strip(),
            attention=tuple(dense.attention()),
            outcomes=tuple(outcomes),
            kept=packed(torch.cat(masks).numpy()),
        )

    def _keeps(self, dense: Dense, layer: int, keep: float) -> Int[torch.Tensor, "rankers M"]:
        """What each ranker keeps, in order."""
        visual, seen = dense.inputs.visual, dense.seen(layer)
        count = int(visual.sum())
        length = visual.numel() - count + kept_count(count, keep)
        return torch.stack([kept(name, seen, length) for name in self._settings.rankers])

    def _outcome(self, dense: Dense, logits: Float[torch.Tensor, "n V"]) -> Outcome:
        said = logits.argmax(-1).tolist()
        return Outcome(
            first=said[0] == dense.tokens[0],
            match=said == dense.tokens,
            kl=divergence(dense.logits[0], logits[0]),
            said=None if said == dense.tokens else self._until_other(dense.tokens, said),
        )

    def _until_other(self, expected: list[int], said: list[int]) -> str:
        """What is said up to the first other token. What follows it was said after the expected token, not this one."""
        place = next(index for index, (a, b) in enumerate(zip(expected, said, strict=True)) if a != b)
        text = self._maker.text(said[: place + 1])
        return text if said[place] in self._maker.stop else f"{text} …".lstrip()


def _mask(keeps: Int[torch.Tensor, "plans M"], visual: Bool[torch.Tensor, " S"]) -> Bool[torch.Tensor, "plans V"]:
    return torch.zeros(len(keeps), visual.numel(), dtype=torch.bool).scatter_(1, keeps, True)[:, visual]


def divergence(expected: Float[torch.Tensor, " V"], actual: Float[torch.Tensor, " V"]) -> float:
    """KL divergence of `actual` from `expected`, both logits, in nats."""
    p, q = (logits.double().log_softmax(-1) for logits in (expected, actual))
    # Of equal distributions rounding makes something barely negative.
    return max(0.0, float((p.exp() * (p - q)).sum()))
