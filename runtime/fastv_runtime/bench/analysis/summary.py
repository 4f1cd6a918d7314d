"""From rounds to figures, ratios to the baseline, and words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fastv_runtime.bench.analysis.bounds import MOST_REACHED, WORTH, reached
from fastv_runtime.bench.analysis.metrics import HEADLINE_FIRST, QUANTITIES, Gain, Pair, quantities
from fastv_runtime.bench.analysis.statistics import figure
from fastv_runtime.bench.models import BundleFacts, Figure, Ratio, Result, Round, RunnerRecord


def results(rounds: Sequence[Round], runners: Sequence[RunnerRecord]) -> list[Result]:
    """One per workload and runner that answered, without predictions."""
    order = [each.name for each in runners]
    workloads = list(dict.fromkeys(each.workload for each in rounds))
    groups: dict[tuple[str, str], list[Round]] = {}
    for each in sorted(rounds, key=lambda each: (workloads.index(each.workload), order.index(each.runner))):
        groups.setdefault((each.runner, each.workload), []).append(each)
    made = []
    for (runner, workload), group in groups.items():
        values = [quantities(each) for each in group]
        made.append(
            Result(
                runner=runner,
                workload=workload,
                pruned_length=group[0].turn.pruned_length,
                pruned_lengths=group[0].turn.pruned_lengths,
                figures={
                    name: figure([value[name] for value in values])
                    for name in QUANTITIES
                    if all(name in value for value in values)
                },
                predicted={},
            )
        )
    return made


def ratios(rounds: Sequence[Round], runners: Sequence[RunnerRecord]) -> list[Ratio]:
    """Every runner against its baseline, workload by workload; nothing for one that has none."""
    by_key = {(each.runner, each.workload, each.index): each for each in rounds}
    made = []
    for runner in runners:
        baseline = baseline_of(runner, runners)
        for workload in dict.fromkeys(each.workload for each in rounds):
            pairs = [
                (by_key[baseline.name, workload, each.index], each)
                for each in rounds
                if baseline is not None
                and (each.runner, each.workload) == (runner.name, workload)
                and (baseline.name, workload, each.index) in by_key
            ]
            if baseline is not None and pairs:
                made += _pair_ratios(runner, baseline, workload, pairs)
    return made


def baseline_of(runner: RunnerRecord, runners: Sequence[RunnerRecord]) -> RunnerRecord | None:
    """The unpruned bundle of the same checkpoint, precision and dialect; for a peer that of weights like its own.

    None for a baseline itself, and for one whose baseline is missing or was refused.
    """
    for other in runners:
        if other.role != "baseline" or other.refused is not None or other.bundle is None or other is runner:
            continue
        if runner.role == "peer" and runner.settings.get("weights") == weights_of(other.bundle):
            return other
        if runner.role == "bundle" and runner.bundle is not None and same_model(runner.bundle, other.bundle):
            return other
    return None


def weights_of(bundle: BundleFacts) -> str:
    """What a bundle's weights are stored as, by the names of peer files."""
    weights = bundle.plan.weights
    return bundle.plan.precision.replace("float", "fp") if weights is None else weights.name


def same_model(one: BundleFacts, other: BundleFacts) -> bool:
    """Whether two bundles differ in how they prune, and in nothing else."""
    return (one.source, one.plan.precision, one.plan.weights, one.dialect) == (
        other.source,
        other.plan.precision,
        other.plan.weights,
        other.dialect,
    )


def _pair_ratios(runner: RunnerRecord, baseline: RunnerRecord, workload: str, pairs: Sequence[Pair]) -> list[Ratio]:
    values = [(quantities(dense), quantities(own)) for dense, own in pairs]
    made = []
    for metric in HEADLINE_FIRST:
        gain, name = metric.gain, metric.name
        shared = [(dense[name], own[name]) for dense, own in values if name in dense and own.get(name)]
        if gain is None or not shared:
            continue
        ratio = figure([dense / own for dense, own in shared])
        bound = None if runner.bundle is None or gain.bound is None else gain.bound(runner.bundle, pairs)
        share = None if bound is None else reached(ratio.median, bound)
        verdict = (
            f"{gain.words}: {ratio.median:.2f}x the speed of {baseline.name}"
            if runner.role == "peer"
            else _verdict(gain, ratio, bound, share)
        )
        made.append(
            Ratio(
                runner=runner.name,
                baseline=baseline.name,
                workload=workload,
                quantity=name,
                figure=ratio,
                bound=bound,
                reached=share,
                verdict=verdict,
            )
        )
    return made


def _verdict(gain: Gain, ratio: Figure, bound: float | None, share: float | None) -> str:
    what = gain.words
    if ratio.p5 > 1:
        line = f"{what} takes {1 / ratio.median:.0%} of the unpruned model's: {ratio.median:.2f}x"
        if share is not None and share > MOST_REACHED:
            return f"{line}, more than the {bound:.2f}x that arithmetic allows: measure again when the machine is quiet"
        return line if share is None else f"{line}, {share:.0%} of the saving that arithmetic allows ({bound:.2f}x)"
    if bound is not None and bound < WORTH:
        line = f"pruning does not pay for {what}, as expected: {gain.no_gain} (at most {bound:.2f}x)"
        return line if ratio.p95 >= 1 else f"{line}; it takes {1 / ratio.median:.2f}x as long"
    if ratio.p95 < 1:
        return f"pruning does not pay for {what}: it takes {1 / ratio.median:.2f}x as long as the unpruned model's"
    most = "" if bound is None else f", at most {bound:.2f}x"
    return f"these repeats cannot tell whether pruning pays for {what}: {ratio.p5:.2f}x to {ratio.p95:.2f}x{most}"
