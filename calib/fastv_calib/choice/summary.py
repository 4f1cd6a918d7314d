"""From samples to figures per plan: means, intervals, costs, the Pareto set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from fastv_calib.choice.intervals import bootstrap, wilson
from fastv_calib.measurement.measure import Measured, PlanOutcome, unpruned_point
from fastv_export.calibration import KeptPoint, Lengths, Objectives, PlanFigures
from fastv_export.quantization.presets import FEW_BITS
from fastv_export.rankers import CONTROLS
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cost import cache_bytes, decoder_flops, plan_cost, tokens_per_layer
from fastv_runtime.config.cuts import one_cut
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
            cuts=one_cut(point.layer, point.keep),  # which ranker costs nothing to speak of
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
    point: KeptPoint, outcomes: Sequence[PlanOutcome], samples: Sequence[Measured], costing: Costing
) -> PlanFigures:
    """One plan's figures from its outcome on each sample."""
    decoder, dtype = costing.decoder, costing.objectives.precision
    rows = [_rows(decoder, point, sample) for sample in samples]
    dense = [_rows(decoder, UNPRUNED, sample) for sample in samples]
    flops, dense_flops = (
        float(np.mean([prefill_flops(decoder, each, sample) for sample in samples])) for each in (point, UNPRUNED)
    )
    cache, dense_cache = (float(np.mean([cache_bytes(decoder, each, dtype) for each in all])) for all in (rows, dense))
    known = [
        sample.correct and outcome.match
        for sample, outcome in zip(samples, outcomes, strict=True)
        if sample.correct is not None
    ]
    plan = costing.plan(point)
    return PlanFigures(
        point=point,
        first_token=wilson([outcome.first for outcome in outcomes]),
        match=wilson([outcome.match for outcome in outcomes]),
        kl=bootstrap([outcome.kl for outcome in outcomes]),
        accuracy=wilson(known) if known else None,
        flops=flops,
        flops_share=flops / dense_flops,
        cache_bytes=cache,
        cache_share=cache / dense_cache,
        memory_bytes=costing.weight_bytes(point) + plan_cost(decoder, plan, capacity(plan)).cache_capacity_bytes,
    )


def unpruned(samples: Sequence[Measured], costing: Costing) -> PlanFigures:
    """The model itself, which agrees with itself by definition."""
    return figures(UNPRUNED, [PlanOutcome(first=True, match=True, kl=0.0)] * len(samples), samples, costing)


def pareto(plans: Sequence[PlanFigures]) -> tuple[int, ...]:
    """Indices of plans than which none is as good in FLOPs and greedy match, and better in one; controls aside.

    A plan of another precision must be as good in memory as well.
    """
    eligible = [index for index, plan in enumerate(plans) if plan.point.ranker not in CONTROLS]

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
    cuts = one_cut(point.layer, point.keep)
    rows = (sample.text + sample.visual, *(sample.text + kept_count(sample.visual, cut.keep) for cut in cuts))
    return tokens_per_layer(decoder, [cut.layer for cut in cuts], rows)
