"""Rounds: every contestant answers every request, in turn, so that what the machine does meanwhile hits all alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastv_runtime.bench.contestant import Contestant, Refused
from fastv_runtime.bench.energy import Meter
from fastv_runtime.bench.models import Round
from fastv_runtime.bench.workloads import Workload
from fastv_runtime.errors import UserError


@dataclass(frozen=True)
class Refusal:
    """A contestant that has no figures for a workload, and why."""

    contestant: str
    workload: str
    reason: str


def measure(
    contestants: Sequence[Contestant],
    workloads: Sequence[Workload],
    *,
    rounds: int,
    warmup: int,
    meter: Meter | None = None,
) -> Iterator[Round | Refusal]:
    """Each turn as it ends. Rounds of warm-up come first, with indices below 0.

    A round asks all contestants for one workload after another; who begins goes round. One that refuses a workload is
    not asked for it again.
    """
    refused: set[tuple[str, str]] = set()
    for index in range(-warmup, rounds):
        for place, workload in enumerate(workloads):
            for contestant in _rotated(contestants, index + place):
                key = (contestant.name, workload.name)
                if key in refused:
                    continue
                before = 0.0 if meter is None else meter.joules()
                try:
                    turn = contestant.run(workload.request)
                except (Refused, UserError) as error:
                    refused.add(key)
                    yield Refusal(*key, str(error))
                    continue
                joules = None if meter is None else meter.joules() - before
                yield Round(index=index, workload=workload.name, contestant=contestant.name, turn=turn, joules=joules)


def _rotated(contestants: Sequence[Contestant], by: int) -> list[Contestant]:
    by %= len(contestants)
    return [*contestants[by:], *contestants[:by]]
