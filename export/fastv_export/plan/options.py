"""What the user may choose."""

from __future__ import annotations

from dataclasses import dataclass

from fastv_runtime.config.plan import KEEP_STEPS, Length, Precision, Weights


@dataclass(frozen=True)
class CutOption:
    """One of several cuts."""

    layer: int
    keep: float
    """Fraction of the prompt's visual tokens, not of those that earlier cuts left."""
    ranker: str | None = None
    """None: that of the options."""


@dataclass(frozen=True)
class Options:
    """What the user may choose. `prune` False writes the unsplit, unpruned baseline.

    `layer`: None means the rule of thumb of `plan.rule`. `keep`: None means its KEEP, or MOST.
    `cuts`: several, in place of the one at `layer` that leaves `keep` of the visual tokens.

    `max_visual`: visual tokens of a prompt; None means room for `max_images` images (or one video, if that is more).
    `share`: of each prompt as few visual tokens as hold this share of attention, and the cuts' `keep` at most; None
    keeps that many of every prompt. `keep_steps`: how many counts there are then.
    `text_step`: None means TEXT_STEP, or `max_text` where that is less.
    `image_tokens`: most visual tokens of one image, for models that do not fix it; None means what the family takes.
    `target`: of `dialects.TARGETS`. `precision` None means the target's own.
    """

    layer: int | None = None
    keep: float | None = None
    ranker: str = "fastv"
    cuts: tuple[CutOption, ...] = ()
    share: float | None = None
    keep_steps: int = KEEP_STEPS
    length: Length = "exact"
    max_text: int = 128
    text_step: int | None = None
    max_images: int = 1
    max_visual: int | None = None
    image_tokens: int | None = None
    max_new_tokens: int = 256
    precision: Precision | None = None
    weights: Weights | None = None
    target: str = "ort"
    prune: bool = True
    verify: bool = True
