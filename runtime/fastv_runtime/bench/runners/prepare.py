"""From opened bundles to runners that may be measured, and to what their predictions are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from fastv_runtime.bench.analysis.device_profile import DeviceProfile, fit
from fastv_runtime.bench.analysis.facts import bundle_facts
from fastv_runtime.bench.models import BenchSettings, RunnerRecord
from fastv_runtime.bench.protocol import Refused
from fastv_runtime.bench.runners.alone import measure_memory
from fastv_runtime.bench.runners.bundle import BundleRunner, plan_settings
from fastv_runtime.bench.runners.entrants import Entrant
from fastv_runtime.bench.runners.probe import probe
from fastv_runtime.bench.workloads import Workload

Status = Callable[[str], AbstractContextManager[object]]
"""Shows what is being done, while it is."""


def load_bundles(
    entrants: Sequence[Entrant], workloads: Sequence[Workload], *, status: Status
) -> tuple[list[RunnerRecord], list[BundleRunner]]:
    """A record of every runner, and those that passed their self-test, loaded; a refused one's record says why.

    A bundle in several settings is loaded for each, as several bundles would be: who shared a session with the runner
    before would find its weights in the caches of the processor.

    Memory is measured on the largest of the workloads. Raises UserError for a bundle that cannot be opened here.
    """
    largest = max(workloads, key=_size)
    records, loaded = [], []
    for choice, bundle in entrants:
        plan = choice.plan(bundle.manifest)
        role: Literal["baseline", "bundle"] = "bundle" if plan.prunes else "baseline"
        record = RunnerRecord(name=choice.name, role=role, settings=plan_settings(choice, bundle.manifest))
        try:
            with status(f"{choice.name}: self-test and memory"):
                memory = measure_memory(choice, bundle, largest.request)
                runner = BundleRunner.load(choice, bundle)
        except Refused as error:
            records.append(record.model_copy(update={"refused": str(error)}))
            continue
        known = {
            "settings": runner.settings,
            "bundle": bundle_facts(bundle, plan, runner.self_test),
            "memory": memory,
        }
        records.append(record.model_copy(update=known))
        loaded.append(runner)
    return records, loaded


def probe_baselines(
    runners: Sequence[BundleRunner],
    records: Sequence[RunnerRecord],
    settings: BenchSettings,
    *,
    machine: str,
    status: Status,
) -> list[DeviceProfile]:
    """A device profile of each unpruned bundle. `machine`: what it is called."""
    facts = {each.name: each.bundle for each in records}
    made = []
    for runner in runners:
        known = facts[runner.name]
        if known is None or known.plan.prunes or runner.pipeline is None:
            continue
        with status(f"{runner.name}: probe for predictions"):
            points = probe(runner.pipeline)
        made.append(
            fit(
                points,
                known.plan,
                device=machine,
                backend=runner.pipeline.backend.name,
                threads=settings.threads,
                dialect=known.dialect,
            )
        )
    return made


def _size(workload: Workload) -> tuple[int, int]:
    images = workload.images()
    return len(images), sum(each.width * each.height for each in images)
