"""From samples to figures per plan: means, intervals, costs, the Pareto set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from fastv_calib.choice.intervals import bootstrap, wilson
from fastv_calib.measurement.outcomes import Measured, PlanOutcome
from fastv_calib.plans import baseline_points, controlled, unpruned_point
from fastv_export.calibration import (
    BaselineFigures,
    CalibrationSettings,
    Estimate,
    KindFigures,
    Lengths,
    Objectives,
    PlanFigures,
)
from fastv_export.points import KeptPoint
from fastv_export.quantization.presets import FEW_BITS
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cost import cache_bytes, decoder_flops, plan_cost, tokens_per_layer
from fastv_runtime.config.lengths import capacity, kept_count
from fastv_runtime.config.plan import Plan

TEXT_STEP = 16
UNPRUNED = unpruned_point()


@dataclass(frozen=True)
class Costing:
    """What figures need to know of the model and its use."""

    decoder: DecoderConfig
    weight_bytes: Callable[[KeptPoint], int]
    lengths: Lengths
    objectives: Objectives

    @property
    def max_text(self) -> int:
        """Text tokens a prompt may have: the longest seen, rounded up."""
        return ceil(self.lengths.text_max / TEXT_STEP) * TEXT_STEP

    def plan(self, point: KeptPoint) -> Plan:
        """A point as a plan for the longest prompt of the data."""
        return Plan(
            cuts=point.plan_cuts(),
            length="exact",
            precision=self.objectives.precision,
            weights=FEW_BITS.get(point.precision),
            max_text=self.max_text,
            max_visual=self.lengths.visual_max,
            max_new_tokens=self.objectives.max_new_tokens,
        )


def lengths(samples: Sequence[Measured]) -> Lengths:
    """How long the prompts are."""
    text = [sample.text for sample in samples]
    p50, p95 = (int(np.percentile(text, share, method="higher")) for share in (50, 95))
    visual = max(sample.visual for sample in samples)
    return Lengths(text_p50=p50, text_p95=p95, text_max=max(text), visual_max=visual)


def figures(
    point: KeptPoint,
    outcomes: Sequence[PlanOutcome],
    samples: Sequence[Measured],
    kinds: Sequence[str | None],
    costing: Costing,
) -> PlanFigures:
    """One plan's figures from its outcome on each sample. kinds: of the samples' questions."""
    rows = [_rows(costing.decoder, point, sample) for sample in samples]
    plan = costing.plan(point)
    caches = plan_cost(costing.decoder, plan, capacity(plan)).cache_capacity_bytes
    return PlanFigures(
        point=point,
        memory_bytes=costing.weight_bytes(point) + caches,
        **_agreement(outcomes, samples, kinds),
        **_work(rows, samples, costing),
    )


def unpruned(samples: Sequence[Measured], kinds: Sequence[str | None], costing: Costing) -> PlanFigures:
    """The model itself, which agrees with itself by definition."""
    return figures(UNPRUNED, [PlanOutcome(first=True, match=True, kl=0.0)] * len(samples), samples, kinds, costing)


def baselines(
    settings: CalibrationSettings, samples: Sequence[Measured], kinds: Sequence[str | None], costing: Costing
) -> Iterator[BaselineFigures]:
    """Figures of every baseline, on the samples that allow it; of those that none does, nothing."""
    layers = costing.decoder.num_hidden_layers
    for place, (name, keep) in enumerate(baseline_points(settings)):
        found = [
            (outcome, sample, kind)
            for sample, kind in zip(samples, kinds, strict=True)
            if (outcome := sample.baselines[place]) is not None
        ]
        if not found:
            continue
        outcomes, some, theirs = map(list, zip(*found, strict=True))
        yield BaselineFigures(
            name=name,
            keep=keep,
            samples=len(found),
            visual_share=sum(each.visual for each in outcomes) / max(1, sum(sample.visual for sample in some)),
            tower_share=float(np.mean([each.tower for each in outcomes])),
            **_agreement(outcomes, some, theirs),
            **_work([[each.text + each.visual] * layers for each in outcomes], some, costing),
        )


def _agreement(
    outcomes: Sequence[PlanOutcome], samples: Sequence[Measured], kinds: Sequence[str | None]
) -> dict[str, Any]:
    """How often answers stay as they are: fields of `Figures`."""
    known = [
        None if sample.correct is None else sample.correct and outcome.match
        for sample, outcome in zip(samples, outcomes, strict=True)
    ]
    by_kind: dict[str, list[int]] = {}
    for number, kind in enumerate(kinds):
        if kind is not None:
            by_kind.setdefault(kind, []).append(number)
    return {
        "first_token": wilson([outcome.first for outcome in outcomes]),
        "match": wilson([outcome.match for outcome in outcomes]),
        "kl": bootstrap([outcome.kl for outcome in outcomes]),
        "accuracy": _share(known),
        "kinds": {
            kind: KindFigures(
                samples=len(numbers),
                match=wilson([outcomes[number].match for number in numbers]),
                accuracy=_share([known[number] for number in numbers]),
            )
            for kind, numbers in sorted(by_kind.items())
        },
    }


def _share(known: Sequence[bool | None]) -> Estimate | None:
    hits = [each for each in known if each is not None]
    return wilson(hits) if hits else None


def _work(rows: Sequence[Sequence[int]], samples: Sequence[Measured], costing: Costing) -> dict[str, Any]:
    """What prompts cost, whose rows by layer are given: fields of `Figures`."""
    decoder, dtype = costing.decoder, costing.objectives.precision
    dense = [_rows(decoder, UNPRUNED, sample) for sample in samples]
    flops, dense_flops = (float(np.mean([decoder_flops(decoder, each).gated for each in all])) for all in (rows, dense))
    cache, dense_cache = (float(np.mean([cache_bytes(decoder, each, dtype) for each in all])) for all in (rows, dense))
    return {
        "flops": flops,
        "flops_share": flops / dense_flops,
        "cache_bytes": cache,
        "cache_share": cache / dense_cache,
    }


def pareto(plans: Sequence[PlanFigures]) -> tuple[int, ...]:
    """Indices of plans than which none is as good in FLOPs and greedy match, and better in one; controls aside.

    A plan of another precision must be as good in memory as well.
    """
    eligible = [index for index, plan in enumerate(plans) if not controlled(plan.point)]

    def beaten(plan: PlanFigures) -> bool:
        return any(
            other.flops <= plan.flops
            and other.match.mean >= plan.match.mean
            and (other.memory_bytes <= plan.memory_bytes or other.point.precision == plan.point.precision)
            and (
                other.flops < plan.flops
                or other.match.mean > plan.match.mean
                or (other.point.precision != plan.point.precision and other.memory_bytes < plan.memory_bytes)
            )
            for other in (plans[index] for index in eligible)
        )

    return tuple(index for index in eligible if not beaten(plans[index]))


def prefill_flops(decoder: DecoderConfig, point: KeptPoint, sample: Measured) -> int:
    """Multiply-adds of the decoder's layers for a sample's prompt."""
    return decoder_flops(decoder, _rows(decoder, point, sample)).gated


def _rows(decoder: DecoderConfig, point: KeptPoint, sample: Measured) -> list[int]:
    left = (sample.visual, *(kept_count(sample.visual, cut.keep) for cut in point.cuts))
    return tokens_per_layer(decoder, point.layers, [sample.text + each for each in left])
