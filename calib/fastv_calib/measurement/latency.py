"""How long bundles of the checkpoint take on this machine, in turns: the real runtime, ONNX Runtime, CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastv_calib.samples.data import Sample
from fastv_export.calibration import BundleLatency, Spread
from fastv_export.points import KeptPoint, PointCut
from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.config.cost import decoder_flops, tokens_per_layer
from fastv_runtime.config.layouts import Vision
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError
from fastv_runtime.generation.clock import STAGES, in_stages
from fastv_runtime.generation.pipeline import Pipeline
from fastv_runtime.preprocessing.images.loading import open_image
from fastv_runtime.preprocessing.videos.decoding import open_video

TIMED = 20
"""Most samples that are timed, spread evenly over the data."""
NEW_TOKENS = 17
"""Of a timed answer, whose mean after the first is the time per token."""
DECODER = ("prefix", "suffix")
"""Stages whose time follows a plan's FLOPs, the layers between cuts included (`in_stages`); the others' does not depend
on K and keep."""


def check_bundles(
    paths: Sequence[str], source: dict[str, str], vision: Vision, precisions: Sequence[str] = ("fp32",)
) -> None:
    """UserError, before anything is loaded, for bundles that say nothing of this checkpoint's plans.

    source: sha256 of the checkpoint's files. vision: how samples become visual tokens. precisions: of plans, as
    `KeptPoint` has them.
    """
    kinds: dict[str, dict[str, str]] = {}
    for path in paths:
        manifest = read_manifest(path)
        if manifest.source != source:
            raise UserError(f"`bundles` {path}: is of another checkpoint: export the one that is calibrated")
        if manifest.vision != vision:
            raise UserError(
                f"`bundles` {path}: makes other visual tokens of an image than this calibration: "
                "export with the same `export.image_tokens`"
            )
        kinds.setdefault(point_of(manifest.plan).precision, {})[_kind(manifest.plan)] = path
    if len(set(paths)) != len(paths):
        raise UserError(f"`bundles` {' '.join(paths)}: give each only once")
    if kinds and not kinds.keys() & set(precisions):
        raise UserError(
            f"`bundles` {' '.join(paths)}: of {' and '.join(kinds)}, and what these take predicts nothing of plans in "
            f"{' and '.join(precisions)}: give `precisions` {' '.join(kinds)}, or bundles exported with "
            f"`export.precision` {' or '.join(precisions)}"
        )
    for alike in kinds.values():
        if len(alike) > 1:
            raise UserError(
                f"`bundles` {' '.join(alike.values())}: of {' and '.join(alike)}, and what one takes predicts nothing "
                "of the other: give bundles of one precision"
            )


@dataclass(frozen=True)
class Timing:
    """One bundle's answer to one sample: milliseconds, and multiply-adds of the decoder's layers in the prefill."""

    sample: int
    stages: dict[str, float]
    ttft: float
    per_token: float
    flops: int

    @property
    def outside(self) -> float:
        """Milliseconds before the first token that are not the decoder's."""
        return self.ttft - sum(self.stages[stage] for stage in DECODER)


def timed(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that are timed."""
    places = np.linspace(0, len(samples) - 1, min(TIMED, len(samples))).round().astype(int)
    return [samples[place] for place in places]


def measure(paths: Sequence[str], samples: Sequence[Sample], advance: Callable[[], None]) -> list[list[Timing]]:
    """Timings by bundle, of each sample; `advance` is called after each sample.

    Bundles take turns, in another order for every sample, so that what slows the machine slows all of them.
    """
    pipelines = []
    for path in paths:
        pipelines.append(Pipeline.load(path))
        _answer(path, pipelines[-1], samples[0], 0)  # the first run allocates
    timings: list[list[Timing]] = [[] for _ in paths]
    for number, sample in enumerate(samples):
        for turn in range(len(paths)):
            bundle = (number + turn) % len(paths)
            timings[bundle].append(_answer(paths[bundle], pipelines[bundle], sample, number))
        advance()
    return timings


def _answer(path: str, pipeline: Pipeline, sample: Sample, number: int) -> Timing:
    plan, decoder = pipeline.bundle.manifest.plan, pipeline.bundle.manifest.decoder
    try:
        images = [open_image(image) for image in sample.images]
        videos = []
        if sample.video is not None and pipeline.bundle.manifest.video is not None:
            videos = [open_video(sample.video, pipeline.bundle.manifest.video.frames)]
        answer = pipeline.generate(
            images,
            sample.prompt,
            videos=videos,
            max_new_tokens=min(NEW_TOKENS, plan.max_new_tokens),
            length="exact",  # as plans are measured
            ignore_stop=True,
        )
    except UserError as error:
        raise UserError(f"`bundles` {path}: {sample.where}: {error}") from None
    rows = tokens_per_layer(
        decoder, plan.cut_layers, (answer.prompt_tokens, *(cut.pruned_length for cut in answer.cuts))
    )
    times = answer.timings_ms
    return Timing(
        sample=number,
        stages=in_stages(times),
        ttft=times["ttft"],
        per_token=times["decode_per_token"],
        flops=decoder_flops(decoder, rows).gated,
    )


def bundle_latency(path: str, timings: Sequence[Timing]) -> BundleLatency:
    """One bundle's figures."""
    manifest = read_manifest(path)
    plan = manifest.plan
    return BundleLatency(
        name=Path(path).name,
        point=point_of(plan),
        kind=_kind(plan),
        samples=len(timings),
        ttft=_spread([timing.ttft for timing in timings]),
        per_token=_spread([timing.per_token for timing in timings]),
        stages={stage: float(np.median([timing.stages[stage] for timing in timings])) for stage in STAGES},
    )


def point_of(plan: Plan) -> KeptPoint:
    """A bundle's plan as a point: few bits by their number, whatever their blocks and wide parts."""
    cuts = tuple(PointCut(layer=cut.layer, keep=cut.keep, ranker=cut.ranker) for cut in plan.cuts)
    return KeptPoint(cuts=cuts, precision="fp32" if plan.weights is None else plan.weights.name)


def _kind(plan: Plan) -> str:
    return plan.precision if plan.weights is None else f"{plan.precision} with {plan.weights.name} weights"


def _spread(values: Sequence[float]) -> Spread:
    low, median, high = np.percentile(values, (5, 50, 95))
    return Spread(median=float(median), low=float(low), high=float(high))
