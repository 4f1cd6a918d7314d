"""One run of a benchmark, from opened bundles to a report; what is measured so far is a report at any time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version

from fastv_runtime.bench.analysis.device_profile import DeviceProfile
from fastv_runtime.bench.analysis.noise import noise
from fastv_runtime.bench.analysis.prediction import predicted
from fastv_runtime.bench.analysis.summary import baseline_of, ratios, results
from fastv_runtime.bench.machine.conditions import Watch
from fastv_runtime.bench.machine.energy import Meter
from fastv_runtime.bench.machine.environment import Environment
from fastv_runtime.bench.measure import RunnerFailure, measure
from fastv_runtime.bench.models import (
    REPORT_VERSION,
    BenchSettings,
    Report,
    Round,
    RunnerRecord,
    WorkloadRecord,
)
from fastv_runtime.bench.protocol import Runner
from fastv_runtime.bench.workloads import Workload
from fastv_runtime.generation.notes import pruning_notes


@dataclass
class Session:
    """What is known before the first round, and the rounds as they come."""

    command: str
    settings: BenchSettings
    environment: Environment
    runners: list[RunnerRecord]
    workloads: Sequence[Workload]
    watch: Watch
    profiles: list[DeviceProfile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)

    def measure(self, runners: Sequence[Runner], meter: Meter | None) -> Iterator[Round | RunnerFailure]:
        """Go through the rounds, keeping all but the warm-up's. Yields each turn, of the warm-up as well."""
        steps = measure(runners, self.workloads, rounds=self.settings.rounds, warmup=self.settings.warmup, meter=meter)
        for step in steps:
            if isinstance(step, RunnerFailure):
                self.notes.append(f"{step.runner}, {step.workload}: no figures: {step.reason}")
            elif step.index >= 0:
                self.rounds.append(step)
            yield step

    def report(self, complete: bool) -> Report:
        """What was measured until now."""
        conditions = self.watch.conditions()
        found = predicted(results(self.rounds, self.runners), self.rounds, self.runners, self.profiles)
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
            runners=tuple(self.runners),
            workloads=tuple(record for each in self.workloads if (record := self._workload(each)) is not None),
            rounds=tuple(self.rounds),
            results=tuple(found),
            ratios=tuple(ratios(self.rounds, self.runners)),
            notes=(*self.notes, *beyond_keep(self.rounds, self.runners), *without_baseline(self.runners)),
        )

    def _workload(self, workload: Workload) -> WorkloadRecord | None:
        turn = next((each.turn for each in self.rounds if each.workload == workload.name), None)
        if turn is None:
            return None
        return WorkloadRecord(
            name=workload.name,
            images=workload.images(),
            prompt=workload.request.prompt,
            new_tokens=workload.request.new_tokens,
            prompt_tokens=turn.prompt_tokens,
            visual_tokens=turn.visual_tokens,
        )


def beyond_keep(rounds: Sequence[Round], runners: Sequence[RunnerRecord]) -> list[str]:
    """A line for each runner and workload of which more visual tokens were kept than its keep, the same for all of its
    prompts, asks for."""
    plans = {each.name: each.bundle.plan for each in runners if each.bundle is not None}
    turns = {(each.runner, each.workload): each.turn for each in rounds}
    return [
        f"{runner}, {workload}: {note}"
        for (runner, workload), turn in turns.items()
        if runner in plans and plans[runner].prunes and plans[runner].share is None and turn.visual_tokens
        for note in pruning_notes(
            plans[runner],
            turn.prompt_tokens - turn.visual_tokens,
            turn.visual_tokens,
            turn.pruned_lengths,
        )
    ]


def without_baseline(runners: Sequence[RunnerRecord]) -> list[str]:
    """A line for each bundle that prunes and has nothing to be compared with: how to come by it."""
    return [
        f"{each.name} has no baseline, so that it has no ratios: export the same checkpoint with the same options and "
        "no pruning, and give that bundle as well"
        for each in runners
        if each.role == "bundle" and each.refused is None and baseline_of(each, runners) is None
    ]
