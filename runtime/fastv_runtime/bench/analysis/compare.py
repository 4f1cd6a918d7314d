"""What changed between two reports, and whether it is more than noise. Pure.

A quantity changed if the intervals of both runs (5th to 95th percentile) do not touch: nine of ten repeats lie in
each, so that two runs of one thing on one quiet machine overlap. Seconds are judged on one machine alone; ratios to a
baseline that was measured in the same run, and memory, bear another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fastv_runtime.bench.analysis.metrics import HEADLINE_FIRST
from fastv_runtime.bench.machine.environment import differences
from fastv_runtime.bench.models import Figure, Report
from fastv_runtime.report.numbers import interval, mib, times_interval

MEMORY = 0.05
"""By how much peak memory may grow: allocators round, and libraries load in no fixed order."""

Verdict = Literal["same", "better", "worse", "not judged"]


@dataclass(frozen=True)
class Change:
    """One quantity in both reports."""

    runner: str
    workload: str
    quantity: str
    old: str
    new: str
    factor: float
    """New by old."""
    outcome: Verdict


@dataclass(frozen=True)
class ReportComparison:
    """Two reports side by side."""

    environment: tuple[str, ...]
    """What differs about the machines, a line each."""
    caveats: tuple[str, ...]
    """Why the verdict may be worth little."""
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    """What only the old report has: it cannot have become worse, but is not measured any more."""

    @property
    def worse(self) -> list[Change]:
        return [change for change in self.changes if change.outcome == "worse"]


def compare(old: Report, new: Report) -> ReportComparison:
    """All that both have, in the new report's order."""
    environment = [*differences(old.environment, new.environment), *_settings(old, new)]
    caveats = [
        f"the {name} report is of an interrupted run" for name, each in _named(old, new) if not each.complete
    ] + [f"the {name} machine was noisy: {line}" for name, each in _named(old, new) for line in each.noise]
    changes = [*_results(old, new, judged=not environment), *_ratios(old, new), *_memory(old, new)]
    new_keys = {(each.runner, each.workload) for each in new.results}
    missing = [
        f"{each.runner}, {each.workload}" for each in old.results if (each.runner, each.workload) not in new_keys
    ]
    return ReportComparison(tuple(environment), tuple(caveats), tuple(changes), tuple(missing))


def outcome(old: Figure, new: Figure, *, more_is_better: bool = False) -> Verdict:
    """Better or worse only where the intervals do not touch."""
    if new.p5 > old.p95:
        return "better" if more_is_better else "worse"
    if new.p95 < old.p5:
        return "worse" if more_is_better else "better"
    return "same"


def _results(old: Report, new: Report, judged: bool) -> Iterator[Change]:
    for result in new.results:
        before = old.result(result.runner, result.workload)
        for metric in HEADLINE_FIRST:
            if before is None or not metric.judged:
                continue
            was, now = before.figures.get(metric.name), result.figures.get(metric.name)
            if was is None or now is None or not was.median:
                continue
            yield Change(
                result.runner,
                result.workload,
                metric.name,
                f"{interval(was)} {metric.unit}",
                f"{interval(now)} {metric.unit}",
                now.median / was.median,
                outcome(was, now) if judged else "not judged",
            )


def _ratios(old: Report, new: Report) -> Iterator[Change]:
    for ratio in new.ratios:
        before = old.ratio(ratio.runner, ratio.workload, ratio.quantity)
        if before is not None and before.baseline == ratio.baseline:
            yield Change(
                ratio.runner,
                ratio.workload,
                f"gain of {ratio.quantity}",
                times_interval(before.figure),
                times_interval(ratio.figure),
                ratio.figure.median / before.figure.median,
                outcome(before.figure, ratio.figure, more_is_better=True),
            )


def _memory(old: Report, new: Report) -> Iterator[Change]:
    before = {each.name: each.memory for each in old.runners}
    for runner in new.runners:
        was, now = before.get(runner.name), runner.memory
        if was is None or now is None:
            continue
        # Libraries differ between environments, and are not the bundle's.
        own = (was.process - was.libraries, now.process - now.libraries)
        factor = own[1] / own[0]
        verdict: Verdict = "worse" if factor > 1 + MEMORY else "better" if factor < 1 - MEMORY else "same"
        yield Change(runner.name, "", "memory", f"{mib(own[0])} MiB", f"{mib(own[1])} MiB", factor, verdict)


def _settings(old: Report, new: Report) -> list[str]:
    """What was asked differently, so that seconds cannot be compared."""
    lines = [
        f"{name}: {getattr(old.settings, name)} before, {getattr(new.settings, name)} now"
        for name in ("backend", "device", "threads")
        if getattr(old.settings, name) != getattr(new.settings, name)
    ]
    asked = {each.name: (each.prompt_tokens, each.visual_tokens, each.new_tokens) for each in old.workloads}
    lines += [
        f"{each.name}: {asked[each.name]} prompt, visual and new tokens before, "
        f"{(each.prompt_tokens, each.visual_tokens, each.new_tokens)} now"
        for each in new.workloads
        if asked.get(each.name) not in (None, (each.prompt_tokens, each.visual_tokens, each.new_tokens))
    ]
    return lines


def _named(old: Report, new: Report) -> tuple[tuple[str, Report], tuple[str, Report]]:
    return ("old", old), ("new", new)
