"""Rounds: every runner answers every request, in turn, so that what the machine does meanwhile hits all alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastv_runtime.bench.machine.energy import Meter
from fastv_runtime.bench.models import Round
from fastv_runtime.bench.protocol import Refused, Runner
from fastv_runtime.bench.turns import turns
from fastv_runtime.bench.workloads import Workload
from fastv_runtime.errors import UserError


@dataclass(frozen=True)
class RunnerFailure:
    """A runner that has no figures for a workload, and why."""

    runner: str
    workload: str
    reason: str


def measure(
    runners: Sequence[Runner],
    workloads: Sequence[Workload],
    *,
    rounds: int,
    warmup: int,
    meter: Meter | None = None,
) -> Iterator[Round | RunnerFailure]:
    """Each turn as it ends. Rounds of warm-up come first, with indices below 0.

    A round asks all runners for one workload after another, in orders that change (`turns`). One that refuses a
    workload is not asked for it again.
    """
    refused: set[tuple[str, str]] = set()
    by_name = {runner.name: runner for runner in runners}
    orders = [turns(list(by_name), seed) for seed in range(len(workloads))]
    for index in range(-warmup, rounds):
        for workload, order in zip(workloads, map(next, orders), strict=True):
            for runner in (by_name[name] for name in order):
                key = (runner.name, workload.name)
                if key in refused:
                    continue
                before = 0.0 if meter is None else meter.joules()
                try:
                    turn = runner.run(workload.request)
                except (Refused, UserError) as error:
                    refused.add(key)
                    yield RunnerFailure(*key, str(error))
                    continue
                joules = None if meter is None else meter.joules() - before
                yield Round(index=index, workload=workload.name, runner=runner.name, turn=turn, joules=joules)
