"""The cheapest plan that meets the objectives, and whether the samples suffice to say so."""

from __future__ import annotations

from collections.abc import Sequence

from fastv_calib.choice.intervals import told_apart
from fastv_calib.plans import choosable
from fastv_export.calibration import Objectives, PlanFigures
from fastv_runtime.errors import UserError

GIB = 2**30
BLUR = 0.1
"""An interval that goes further than that below what was asked for says little: fewer than about 35 samples do."""


def check_objectives(objectives: Objectives, weight_bytes: int) -> None:
    """UserError for objectives that no plan of this model can meet, whatever is measured.

    weight_bytes: of the plan whose weights take the least.
    """
    if not 0 < objectives.min_agreement <= 1:
        raise UserError(f"`min_agreement` {objectives.min_agreement:g}: must be above 0 and at most 1")
    if objectives.max_memory is not None and not objectives.max_memory > 0:
        raise UserError(f"`max_memory` {objectives.max_memory:g}: must be above 0")
    if objectives.max_ttft is not None and not objectives.max_ttft > 0:
        raise UserError(f"`max_ttft` {objectives.max_ttft:g}: must be above 0")
    if objectives.max_memory is not None and objectives.max_memory * GIB <= weight_bytes:
        raise UserError(
            f"`max_memory` {objectives.max_memory:g}: the weights alone take {weight_bytes / GIB:.3g} GiB, "
            "whatever is pruned: give more, or `precision` fp16, or `precisions` int8 int4"
        )


def choose(plans: Sequence[PlanFigures], objectives: Objectives) -> int | None:
    """Index of the plan with the fewest FLOPs of those that meet the objectives; None if none does.

    A plan agrees often enough unless its interval says otherwise: the target is not above the interval's upper end.
    Neither the unpruned model nor a control is chosen.
    """
    meeting = [index for index in _candidates(plans) if _agrees(plans[index], objectives)]
    meeting = [index for index in meeting if _fits(plans[index], objectives) and _hastens(plans[index], objectives)]
    return min(meeting, key=lambda index: _cost(plans[index]), default=None)


def best(plans: Sequence[PlanFigures]) -> int:
    """Index of the plan that agrees most often, whatever it costs, of those that can be chosen."""
    return max(_candidates(plans), key=lambda index: (plans[index].match.high, -plans[index].flops))


def refusal(plans: Sequence[PlanFigures], objectives: Objectives) -> str:
    """Why nothing was chosen, and what would be."""
    candidates = [plans[index] for index in _candidates(plans)]
    agreeing = [plan for plan in candidates if _agrees(plan, objectives)]
    if agreeing:
        return _contradiction(agreeing, objectives)
    most = plans[best(plans)]
    return (
        f"`min_agreement` {objectives.min_agreement:g}: no plan meets it; the best, {most.point}, matches on "
        f"{most.match.mean:.1%} of the samples (95% interval {most.match.low:.1%} to {most.match.high:.1%}): "
        "lower it, or try more `layers`, `keeps` and `cuts`"
    )


def _contradiction(agreeing: Sequence[PlanFigures], objectives: Objectives) -> str:
    """What plans that agree lack: memory, time, or both at once; or a bundle that tells their time."""
    if objectives.max_ttft is not None and all(plan.ttft is None for plan in agreeing):
        precisions = sorted({plan.point.precision for plan in agreeing})
        return (
            f"`max_ttft` {objectives.max_ttft:g}: none of `bundles` tells how long plans that agree take: add one "
            f"exported with `export.precision` {' or '.join(precisions)}"
        )
    small = any(_fits(plan, objectives) for plan in agreeing)
    quick = any(_hastens(plan, objectives) for plan in agreeing)
    asked, facts = [f"`min_agreement` {objectives.min_agreement:g}"], []
    if quick or not small:
        least = min(agreeing, key=lambda plan: plan.memory_bytes)
        asked.append(f"`max_memory` {objectives.max_memory:g}")
        facts.append(f"the smallest plan that agrees, {least.point}, takes {least.memory_bytes / GIB:.3g} GiB")
    if small or not quick:
        asked.append(f"`max_ttft` {objectives.max_ttft:g}")
        times = [(plan.point, plan.ttft) for plan in agreeing if plan.ttft is not None]
        first, time = min(times, key=lambda each: each[1].ms)
        facts.append(f"the fastest plan that agrees, {first}, takes {time}")
    *earlier, last = asked
    return f"{', '.join(earlier)} and {last} contradict each other: {', and '.join(facts)}"


def doubts(
    plans: Sequence[PlanFigures], matches: Sequence[Sequence[bool]], chosen: int, objectives: Objectives
) -> list[str]:
    """Warnings where the samples are too few to support the choice. `matches`: by plan, whether each sample matched."""
    plan, count = plans[chosen], len(matches[chosen])
    few = "1 sample is too few" if count == 1 else f"{count} samples are too few"
    found = []
    if plan.match.mean < objectives.min_agreement:
        found.append(
            f"{plan.point} matches on {plan.match.mean:.1%} of {count} samples, below the "
            f"{objectives.min_agreement:.1%} asked for, and is chosen since so few samples do not exclude that: "
            "give more samples"
        )
    elif plan.match.low < objectives.min_agreement - BLUR:
        found.append(
            f"{few} to know that {plan.point} reaches {objectives.min_agreement:.1%}: "
            f"the 95% interval goes down to {plan.match.low:.1%}: give more samples"
        )
    cheaper = [index for index in _candidates(plans) if plans[index].flops < plan.flops]
    following = max(cheaper, key=lambda index: (plans[index].flops, plans[index].match.mean), default=None)
    if following is not None and not told_apart(matches[chosen], matches[following]):
        found.append(
            f"{few} to tell {plan.point} from the next cheaper plan, {plans[following].point}: "
            f"{plan.match.mean:.1%} and {plans[following].match.mean:.1%} match: give more samples"
        )
    return found


def _candidates(plans: Sequence[PlanFigures]) -> list[int]:
    return [index for index, plan in enumerate(plans) if choosable(plan.point)]


def _agrees(plan: PlanFigures, objectives: Objectives) -> bool:
    return plan.match.high >= objectives.min_agreement


def _fits(plan: PlanFigures, objectives: Objectives) -> bool:
    return objectives.max_memory is None or plan.memory_bytes <= objectives.max_memory * GIB


def _hastens(plan: PlanFigures, objectives: Objectives) -> bool:
    return objectives.max_ttft is None or (plan.ttft is not None and plan.ttft.ms <= objectives.max_ttft)


def _cost(plan: PlanFigures) -> tuple[float, float, float, float]:
    """FLOPs; of plans with as many, the fewer keys and values, the smaller weights, then the better match."""
    return plan.flops, plan.cache_bytes, plan.memory_bytes, -plan.match.mean
