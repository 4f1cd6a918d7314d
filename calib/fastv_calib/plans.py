"""Which plans are measured, and in which order; those that are tried where nobody says which."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product

from fastv_export.calibration import CalibrationSettings
from fastv_export.points import Chain, KeptPoint, PointCut
from fastv_export.quantization.presets import FEW_BITS
from fastv_export.rankers import CONTROLS
from fastv_export.rankers.parts.needs import crowded

DEPTHS = (1 / 7, 1 / 3, 1 / 2)
"""Of a decoder's layers, where single cuts are tried beside the paper's K=2. The best K of published models and of our
own lies between the first two; behind half of the layers little is left to save."""
PAPER = 2
TWO_CUTS = (1 / 7, 1 / 3)
"""Where chains of two cuts are tried."""
MOST_CHAINS = 4
"""Chains that are tried, each with every ranker."""


def points(settings: CalibrationSettings) -> list[KeptPoint]:
    """The plans that are measured, in this order; with few bits the unpruned model as well."""
    found = []
    for precision in settings.precisions:
        if precision in FEW_BITS:
            found.append(unpruned_point(precision))
        found += [KeptPoint(cuts=cuts, precision=precision) for cuts in [*_single_cuts(settings), *settings.cuts]]
    return found


def unpruned_point(precision: str = "fp32") -> KeptPoint:
    return KeptPoint(cuts=(), precision=precision)


def choosable(point: KeptPoint) -> bool:
    """Whether a plan prunes, and by no control."""
    return bool(point.cuts) and not controlled(point)


def controlled(point: KeptPoint) -> bool:
    """Whether a control chooses at one of its cuts."""
    return any(cut.ranker in CONTROLS for cut in point.cuts)


def baseline_points(settings: CalibrationSettings) -> list[tuple[str, float]]:
    """Baselines that are measured, in this order: of BASELINES, and the fraction of visual tokens."""
    return list(product(settings.baselines, settings.keeps))


def measured_line(settings: CalibrationSettings) -> str:
    """How much is measured of every sample, for people."""
    found = points(settings)
    chains = list(dict.fromkeys("+".join(f"{cut.layer}:{cut.keep:g}" for cut in cuts) for cuts in settings.cuts))
    single = f"K {' '.join(map(str, settings.layers))}; keep {' '.join(f'{keep:g}' for keep in settings.keeps)}"
    parts = [*([single] if settings.layers else []), *([f"cuts {' '.join(chains)}"] if chains else [])]
    parts.append(f"rankers {' '.join(dict.fromkeys(cut.ranker for point in found for cut in point.cuts))}")
    beside = len(baseline_points(settings))
    baselines = f"{beside} baseline{'' if beside == 1 else 's'}"
    return f"{len(found)} plans and {baselines} are measured of every sample: {'; '.join(parts)}"


def _single_cuts(settings: CalibrationSettings) -> list[Chain]:
    """Every combination, but for rankers that read layer K-2 where there is none."""
    return [
        (PointCut(layer=layer, keep=keep, ranker=ranker),)
        for layer, keep, ranker in product(settings.layers, settings.keeps, settings.rankers)
        if crowded([(layer, ranker)]) is None
    ]


def default_layers(count: int) -> tuple[int, ...]:
    """Where single cuts are tried in a decoder of `count` layers: the paper's K, and at some depths."""
    return tuple(sorted({max(1, min(layer, count - 1)) for layer in (PAPER, *(round(count * at) for at in DEPTHS))}))


def default_chains(count: int, layers: Sequence[int], keeps: Sequence[float]) -> list[tuple[tuple[int, float], ...]]:
    """Two cuts (K, keep) each, to be tried beside single ones in a decoder of `count` layers.

    The second cut leaves one of `keeps`, the first as many tokens as make the chain's work, visual rows times layers,
    that of one of the single cuts. Of each second keep, the chains nearest to the middle between those that cut once.
    """
    first, second = (max(1, round(count * at)) for at in TWO_CUTS)
    if not first < second < count:
        return []
    found: list[tuple[float, tuple[tuple[int, float], ...]]] = []
    for last in keeps:
        for layer, keep in product(layers, keeps):
            work = layer + (count - layer) * keep
            between = round((work - first - (count - second) * last) / (second - first), 2)
            if last < between < 1:
                found.append((abs(between - (1 + last) / 2), ((first, between), (second, last))))
    found.sort()
    best = list(dict.fromkeys(chain for _, chain in found))[:MOST_CHAINS]
    return sorted(best, reverse=True)


def ranked(chains: Collection[Sequence[tuple[int, float]]], rankers: Sequence[str]) -> list[Chain]:
    """Chains with every ranker that can be there, at all of their cuts."""
    found = [
        tuple(PointCut(layer=layer, keep=keep, ranker=ranker) for layer, keep in chain)
        for chain, ranker in product(chains, rankers)
    ]
    return [cuts for cuts in found if crowded((cut.layer, cut.ranker) for cut in cuts) is None]
