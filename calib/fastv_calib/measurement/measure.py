"""What one sample tells of every plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int

from fastv_calib.measurement.quantized import QuantizedModel
from fastv_calib.measurement.rankers import kept
from fastv_calib.measurement.sweep import Dense, Sweep
from fastv_calib.samples.data import Sample
from fastv_calib.samples.inputs import DecoderInputs, InputMaker
from fastv_calib.samples.masks import packed
from fastv_export import hf
from fastv_export.calibration import CalibrationSettings, KeptPoint
from fastv_export.checkpoint.checkpoint import Checkpoint, NotFinite, finite
from fastv_export.families import Family, family_of
from fastv_export.hf.models import Limit
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.observer import Observer, Statistics
from fastv_export.quantization.presets import FEW_BITS
from fastv_export.quantization.text_activations import text_activations
from fastv_export.rankers import RANKERS
from fastv_export.tracing.pre_rope import check_projections
from fastv_export.verify.reference import load_model
from fastv_runtime.config.base import StrictModel
from fastv_runtime.config.lengths import kept_count
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.loading import open_image
from fastv_runtime.preprocessing.videos.decoding import open_video


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


class Measured(StrictModel):
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
    outcomes: tuple[PlanOutcome, ...]
    """In the order of `points`."""
    kept: str
    """Which visual tokens each plan keeps, in that order (`fastv_calib.samples.masks`)."""


Shown = tuple[PlanOutcome, Bool[torch.Tensor, " V"]]
"""What a plan makes of a sample, and which visual tokens it keeps."""


@dataclass(frozen=True)
class Yielded:
    """All that one sample yields; plain data, since it may come from another process."""

    measured: Measured
    statistics: Statistics
    """Of what the unpruned model's products are given."""
    notes: tuple[str, ...] = ()
    """What the user should know: a video with fewer frames than were asked for."""


def points(settings: CalibrationSettings) -> list[KeptPoint]:
    """The plans that are measured, in this order; with few bits the unpruned model as well."""
    found = []
    for precision in settings.precisions:
        if precision in FEW_BITS:
            found.append(unpruned_point(precision))
        found += [
            KeptPoint(layer=layer, keep=keep, ranker=ranker, precision=precision)
            for layer, keep, ranker in product(settings.layers, settings.keeps, settings.rankers)
        ]
    return found


def unpruned_point(precision: str = "fp32") -> KeptPoint:
    return KeptPoint(layer=None, keep=1.0, ranker="fastv", precision=precision)


def load_measure(source: Path, settings: CalibrationSettings) -> Measure:
    """The checkpoint at `source`, loaded to measure samples by `settings`; NotFinite where weights are no numbers."""
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.model_type(), str(checkpoint.path / "config.json"))
    model = load_model(checkpoint.path, family)
    for name, parameter in model.named_parameters():
        if not finite(parameter):
            raise NotFinite(f"{checkpoint.path}: tensor {name}")
    maker = InputMaker(checkpoint, family, model, settings.image_tokens)
    return Measure(model, family, maker, settings, family.max_positions(family.config(checkpoint)))


class Measure:
    """Measures samples on one model."""

    def __init__(
        self, model: Any, family: Family, maker: InputMaker, settings: CalibrationSettings, limit: Limit | None
    ):
        """limit: positions that the model supports, None if no limit is known.

        Raises UserError for a ranker that this family's exports cannot have.
        """
        decoder, head = family.decoder(model), family.head(model)
        pre_rope = [name for name in settings.rankers if not RANKERS[name].rotary]
        for name in pre_rope:
            # What no export can have is not measured for hours first.
            check_projections(hf.attention_of(hf.layers_of(decoder)[0]), name, family.model_type)
        self._sweep = Sweep(decoder, head, settings.layers, pre_rope=bool(pre_rope))
        self._observer = Observer(decoder, head)
        self._maker, self._settings, self._limit = maker, settings, limit
        few = any(name in FEW_BITS for name in settings.precisions)
        self._rounded = QuantizedModel(model, family, _activations(model, family, maker, limit) if few else {})

    def __call__(self, sample: Sample) -> Yielded:
        """Raises UserError, which names the sample, for images, videos and prompts that cannot be used."""
        try:
            images = [open_image(image) for image in sample.images]
            videos = [] if sample.video is None else [open_video(sample.video, self._maker.preparation.frames)]
            inputs = self._maker(images, sample.prompt, videos)
        except UserError as error:
            raise UserError(f"{sample.where}: {error}") from None
        length, visual = inputs.visual.numel(), int(inputs.visual.sum())
        if self._limit is not None and length + self._settings.answer_tokens > self._limit.positions:
            raise UserError(
                f"{sample.where}: the prompt has {length} tokens and this model supports at most "
                f"{self._limit.positions} ({self._limit.why}), answer included"
            )
        statistics: Statistics = {}
        with self._observer.observed(statistics):
            dense = self._sweep.dense(inputs, self._maker.stop, self._settings.answer_tokens)
        answer = self._maker.text(dense.tokens)
        shown: list[Shown] = []
        for precision in self._settings.precisions:
            if precision in FEW_BITS:
                shown += self._few_bits(dense, precision, lambda: self._maker(images, sample.prompt, videos))
            else:
                shown += self._all(dense)
        measured = Measured(
            key=sample.key,
            text=length - visual,
            visual=visual,
            answer=answer,
            correct=None if sample.answer is None else answer == sample.answer.strip(),
            attention=tuple(dense.attention()),
            outcomes=tuple(outcome for outcome, _ in shown),
            kept=packed(torch.stack([mask for _, mask in shown]).numpy()),
        )
        return Yielded(measured, statistics, tuple(note for video in videos for note in video.notes))

    def _all(self, dense: Dense) -> list[Shown]:
        settings = self._settings
        return [
            each
            for layer, keep in product(settings.layers, settings.keeps)
            for each in self._outcomes(dense, layer, keep)
        ]

    def _few_bits(self, dense: Dense, precision: str, make: Callable[[], DecoderInputs]) -> list[Shown]:
        """Of the rounded model, unpruned and pruned, on the answer of the model as it is stored."""
        weights = FEW_BITS[precision]
        with self._rounded(weights, None):
            inputs = make()
        first = self._settings.layers[0]
        with self._rounded(weights, None):
            everything = torch.arange(inputs.visual.numel())[None]
            (logits,) = self._sweep.pruned(self._sweep.forced(inputs, dense, first), first, everything)
        outcomes = [(self._outcome(dense, logits), _mask(everything, inputs.visual)[0])]
        for layer in self._settings.layers:  # which parts are the prefix's depends on K
            with self._rounded(weights, layer):
                shown = self._sweep.forced(inputs, dense, layer)
                for keep in self._settings.keeps:
                    outcomes += self._outcomes(shown, layer, keep)
        return outcomes

    def _outcomes(self, dense: Dense, layer: int, keep: float) -> list[Shown]:
        """Of each ranker, in order."""
        visual, seen = dense.inputs.visual, dense.seen(layer)
        count = int(visual.sum())
        length = visual.numel() - count + kept_count(count, keep)
        keeps = torch.stack([kept(name, seen, length) for name in self._settings.rankers])
        outcomes = [self._outcome(dense, logits) for logits in self._sweep.pruned(dense, layer, keeps)]
        return list(zip(outcomes, _mask(keeps, visual), strict=True))

    def _outcome(self, dense: Dense, logits: Float[torch.Tensor, "n V"]) -> PlanOutcome:
        said = logits.argmax(-1).tolist()
        return PlanOutcome(
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


def _activations(model: Any, family: Family, maker: InputMaker, limit: Limit | None) -> dict[str, Activation]:
    """As an export without a calibration has them: none where no prompt can be made of a text, which it says."""
    try:
        return text_activations(model, family, maker.preparation.prompts, None if limit is None else limit.positions)
    except UserError:
        return {}
