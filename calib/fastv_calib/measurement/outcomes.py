"""What one sample tells of every plan: a line of the file of measurements."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from fastv_export.quantization.observer import Statistics
from fastv_runtime.config.base import StrictModel


class PlanOutcome(StrictModel):
    """One plan on one sample, against the unpruned model."""

    first: bool
    """The likeliest first token is the same."""
    match: bool
    """So is every token of the answer."""
    kl: float
    """KL divergence of the first token's distribution from the unpruned one, in nats."""
    said: str | None = None
    """Where the answer is another: its text up to the first other token, and an ellipsis unless it ends there."""


class BaselineOutcome(PlanOutcome):
    """The same of the unpruned model on fewer visual tokens."""

    text: int
    visual: int
    """Tokens of its prompt."""
    tower: float
    """Rows that the vision tower makes, of those for the images as they are."""


class Measured(StrictModel):
    """One sample."""

    key: str
    text: int
    visual: int
    """Tokens of the prompt."""
    answer: str
    """What the unpruned model says."""
    correct: bool | None
    """Whether that is the known answer, blanks around it aside; None if none is known."""
    attention: tuple[float, ...]
    outcomes: tuple[PlanOutcome, ...]
    """In the order of `fastv_calib.plans.points`."""
    kept: str
    """Which visual tokens each plan keeps after its last cut, in that order (`fastv_calib.samples.masks`)."""
    baselines: tuple[BaselineOutcome | None, ...] = ()
    """In the order of `fastv_calib.plans.baseline_points`; None where the sample allows none."""


@dataclass(frozen=True)
class Yielded:
    """All that one sample yields; plain data, since it may come from another process."""

    measured: Measured
    statistics: Statistics
    """Of what the unpruned model's products are given."""
    notes: tuple[str, ...] = ()
    """What the user should know: a video with fewer frames than were asked for."""


def divergence(expected: Float[torch.Tensor, " V"], actual: Float[torch.Tensor, " V"]) -> float:
    """KL divergence of `actual` from `expected`, both logits, in nats."""
    p, q = (logits.double().log_softmax(-1) for logits in (expected, actual))
    # Of equal distributions rounding makes something barely negative.
    return max(0.0, float((p.exp() * (p - q)).sum()))
