"""What one sample tells of every plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image

from fastv_calib.measurement.chains import Pruned, following
from fastv_calib.measurement.outcomes import BaselineOutcome, Measured, PlanOutcome, Yielded, divergence
from fastv_calib.measurement.quantized import QuantizedModel
from fastv_calib.measurement.room import attention_bytes, check_room
from fastv_calib.measurement.sweep import Dense, Sweep
from fastv_calib.plans import baseline_points, points
from fastv_calib.samples.baselines import SMALLER, pooled, smaller, tower_share
from fastv_calib.samples.data import Sample
from fastv_calib.samples.inputs import DecoderInputs, InputMaker
from fastv_calib.samples.masks import packed
from fastv_export import hf
from fastv_export.calibration import CalibrationSettings
from fastv_export.checkpoint.checkpoint import Checkpoint, NotFinite, finite
from fastv_export.families import Family, family_of
from fastv_export.hf.models import Limit
from fastv_export.plan import decoder_dimensions
from fastv_export.points import Chain
from fastv_export.quantization.activations import Activation
from fastv_export.quantization.observer import Observer, Statistics
from fastv_export.quantization.presets import FEW_BITS
from fastv_export.quantization.text_activations import text_activations
from fastv_export.rankers import RANKERS
from fastv_export.tracing.pre_rope import check_projections
from fastv_export.verify.reference import load_model
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing import Visual
from fastv_runtime.preprocessing.images.loading import open_image
from fastv_runtime.preprocessing.videos.decoding import open_video
from fastv_runtime.tensorrt_build.preflight import available_memory

STORED = "fp32"
"""Precision of the model as it is stored."""
Shown = tuple[PlanOutcome, Bool[torch.Tensor, " V"]]
"""What a plan makes of a sample, and which visual tokens it keeps."""


def load_measure(source: Path, settings: CalibrationSettings) -> Measure:
    """The checkpoint at `source`, loaded to measure samples by `settings`; NotFinite where weights are no numbers."""
    checkpoint = Checkpoint(source)
    family = family_of(checkpoint.model_type(), str(checkpoint.path / "config.json"))
    model = load_model(checkpoint.path, family)
    for name, parameter in model.named_parameters():
        if not finite(parameter):
            raise NotFinite(f"{checkpoint.path}: tensor {name}")
    maker = InputMaker(checkpoint, family, model, settings.image_tokens)
    config = family.config(checkpoint)
    heads = decoder_dimensions(config, family).num_attention_heads
    return Measure(model, family, maker, settings, family.max_positions(config), heads)


class Measure:
    """Measures samples on one model."""

    def __init__(
        self,
        model: Any,
        family: Family,
        maker: InputMaker,
        settings: CalibrationSettings,
        limit: Limit | None,
        heads: int,
    ):
        """limit: positions that the model supports, None if no limit is known. heads: of the decoder's attention.

        Raises UserError for a ranker that this family's exports cannot have.
        """
        decoder, head = family.decoder(model), family.head(model)
        self._by_precision: dict[str, list[Chain]] = {}
        for point in points(settings):
            self._by_precision.setdefault(point.precision, []).append(point.cuts)
        chains = {chain for chains in self._by_precision.values() for chain in chains}
        for name in {cut.ranker for chain in chains for cut in chain if not RANKERS[cut.ranker].rotary}:
            # What no export can have is not measured for hours first.
            check_projections(hf.attention_of(hf.layers_of(decoder)[0]), name, family.model_type)
        self._heads = heads
        self._sweep = Sweep(decoder, head, following((), self._by_precision.get(STORED, ())))
        self._observer = Observer(decoder, head)
        self._maker, self._settings, self._limit = maker, settings, limit
        few = any(name in FEW_BITS for name in settings.precisions)
        self._rounded = QuantizedModel(model, family, _activations(model, family, maker, limit) if few else {})

    def __call__(self, sample: Sample) -> Yielded:
        """Raises UserError, which names the sample, for images, videos and prompts that cannot be used."""
        try:
            images = [open_image(image) for image in sample.images]
            videos = [] if sample.video is None else [open_video(sample.video, self._maker.preparation.frames)]
            visuals = self._maker.visuals(images, videos)
            inputs = self._maker.of(visuals, sample.prompt)
        except UserError as error:
            raise UserError(f"{sample.where}: {error}") from None
        length, visual = inputs.visual.numel(), int(inputs.visual.sum())
        if self._limit is not None and length + self._settings.answer_tokens > self._limit.positions:
            raise UserError(
                f"{sample.where}: the prompt has {length} tokens and this model supports at most "
                f"{self._limit.positions} ({self._limit.why}), answer included"
            )
        needed = attention_bytes(self._heads, length, visual, self._settings)
        check_room(sample.where, length, needed, available_memory())
        statistics: Statistics = {}
        with self._observer.observed(statistics):
            dense = self._sweep.dense(inputs, self._maker.stop, self._settings.answer_tokens)
        answer = self._maker.text(dense.tokens)
        shown: list[Shown] = []
        for precision, chains in self._by_precision.items():
            if precision in FEW_BITS:
                shown += self._few_bits(dense, precision, chains, lambda: self._maker.of(visuals, sample.prompt))
            else:
                shown += self._shown(dense, self._sweep.chains(dense, chains))
        measured = Measured(
            key=sample.key,
            text=length - visual,
            visual=visual,
            answer=answer,
            correct=None if sample.answer is None else answer == sample.answer.strip(),
            attention=tuple(dense.attention),
            outcomes=tuple(outcome for outcome, _ in shown),
            kept=packed(torch.stack([mask for _, mask in shown]).numpy()),
            baselines=tuple(self._baselines(dense, images, visuals, sample.prompt)),
        )
        return Yielded(measured, statistics, tuple(note for video in videos for note in video.notes))

    def _few_bits(
        self, dense: Dense, precision: str, chains: Sequence[Chain], make: Callable[[], DecoderInputs]
    ) -> list[Shown]:
        """Of the rounded model, unpruned and pruned, on the answer of the model as it is stored."""
        weights = FEW_BITS[precision]
        with self._rounded(weights, ()):
            inputs = make()
        found: dict[Chain, Shown] = {}
        by_layers: dict[tuple[int, ...], list[Chain]] = {}
        for chain in chains:
            by_layers.setdefault(tuple(cut.layer for cut in chain), []).append(chain)
        for layers, alike in by_layers.items():  # which parts are the prefix's depends on K
            with self._rounded(weights, layers):
                pruned = self._sweep.chains(self._sweep.begun(inputs, dense.tokens), alike)
            found |= zip(alike, self._shown(dense, pruned), strict=True)
        return [found[chain] for chain in chains]

    def _baselines(
        self, dense: Dense, images: Sequence[Image.Image], visuals: Sequence[Visual], prompt: str
    ) -> Iterator[BaselineOutcome | None]:
        """The unpruned model as it is stored on fewer visual tokens, on its own answer to all of them."""
        for name, keep in baseline_points(self._settings):
            if name == SMALLER and len(images) < len(visuals):  # a video is not resized
                yield None
                continue
            if name == SMALLER:
                resized = smaller(self._maker, images, visuals, keep)
                inputs, tower = self._maker.of(resized, prompt), tower_share(resized, visuals)
            else:
                inputs, tower = pooled(dense.inputs, self._maker.grids(visuals, prompt), keep), 1.0
            (whole,) = self._sweep.chains(self._sweep.begun(inputs, dense.tokens), [()])
            visual = int(inputs.visual.sum())
            outcome = self._outcome(dense, whole.logits)
            yield BaselineOutcome(
                **outcome.model_dump(), text=inputs.visual.numel() - visual, visual=visual, tower=tower
            )

    def _shown(self, dense: Dense, plans: Sequence[Pruned]) -> list[Shown]:
        visual = dense.inputs.visual
        masks = [torch.isin(torch.arange(visual.numel()), plan.rows)[visual] for plan in plans]
        return [(self._outcome(dense, plan.logits), mask) for plan, mask in zip(plans, masks, strict=True)]

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


def _activations(model: Any, family: Family, maker: InputMaker, limit: Limit | None) -> dict[str, Activation]:
    """As an export without a calibration has them: none where no prompt can be made of a text, which it says."""
    try:
        return text_activations(model, family, maker.preparation.prompts, None if limit is None else limit.positions)
    except UserError:
        return {}
