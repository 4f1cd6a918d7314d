"""One run of a benchmark, from opened bundles to a report; what is measured so far is a report at any time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version

from fastv_runtime.bench.conditions import Watch
from fastv_runtime.bench.contestant import Contestant
from fastv_runtime.bench.energy import Meter
from fastv_runtime.bench.environment import Environment
from fastv_runtime.bench.measure import Refusal, measure
from fastv_runtime.bench.models import (
    REPORT_VERSION,
    ContestantRecord,
    Report,
    Round,
    Settings,
    WorkloadRecord,
)
from fastv_runtime.bench.noise import noise
from fastv_runtime.bench.prediction import predicted
from fastv_runtime.bench.profile import DeviceProfile
from fastv_runtime.bench.summary import baseline_of, ratios, results
from fastv_runtime.bench.workloads import Workload


@dataclass
class Run:
    """What is known before the first round, and the rounds as they come."""

    command: str
    settings: Settings
    environment: Environment
    contestants: list[ContestantRecord]
    workloads: Sequence[Workload]
    watch: Watch
    profiles: list[DeviceProfile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)

    def measure(self, contestants: Sequence[Contestant], meter: Meter | None) -> Iterator[Round | Refusal]:
        """Go through the rounds, keeping all but the warm-up's. Yields each turn, of the warm-up as well."""
        steps = measure(
            contestants, self.workloads, rounds=self.settings.rounds, warmup=self.settings.warmup, meter=meter
        )
        for step in steps:
            if isinstance(step, Refusal):
                self.notes.append(f"{step.contestant}, {step.workload}: no figures: {step.reason}")
            elif step.index >= 0:
                self.rounds.append(step)
            yield step

    def report(self, complete: bool) -> Report:
        """What was measured until now."""
        conditions = self.watch.conditions()
        found = predicted(results(self.rounds, self.contestants), self.rounds, self.contestants, self.profiles)
        return Report(
            schema_version=REPORT_VERSION,
            version=version("fastv-edge"),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=self.command,
            complete=complete,
            settings=self.settings,
            environment=self.environment,
            conditions=conditions,
            profiles=tuple(self.profiles),
            noise=tuple(noise(conditions, found)),
            contestants=tuple(self.contestants),
            workloads=tuple(record for each in self.workloads if (record := self._workload(each)) is not None),
            rounds=tuple(self.rounds),
            results=tuple(found),
            ratios=tuple(ratios(self.rounds, self.contestants)),
            notes=(*self.notes, *without_baseline(self.contestants)),
        )

    def _workload(self, workload: Workload) -> WorkloadRecord | None:
        turn = next((each.turn for each in self.rounds if each.workload == workload.name), None)
        if turn is None:
            return None
        return WorkloadRecord(
            name=workload.name,
            pictures=workload.pictures(),
            prompt=workload.request.prompt,
            new_tokens=workload.request.new_tokens,
            prompt_tokens=turn.prompt_tokens,
            visual_tokens=turn.visual_tokens,
        )


def without_baseline(contestants: Sequence[ContestantRecord]) -> list[str]:
    """A line for each bundle that prunes and has nothing to be compared with: how to come by it."""
    return [
        f"{each.name} has no baseline, so that it has no ratios: export the same checkpoint with the same options and "
        "--no-prune, and give that bundle as well"
        for each in contestants
        if each.role == "bundle" and each.refused is None and baseline_of(each, contestants) is None
    ]
