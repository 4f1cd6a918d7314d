"""From opened bundles to runners that may be measured, and to what their predictions are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from fastv_runtime.bench.analysis.device_profile import DeviceProfile, fit
from fastv_runtime.bench.analysis.facts import bundle_facts
from fastv_runtime.bench.models import BenchSettings, RunnerRecord
from fastv_runtime.bench.protocol import Refused
from fastv_runtime.bench.runners.alone import measure_memory
from fastv_runtime.bench.runners.bundle import BackendChoice, BundleRunner, plan_settings
from fastv_runtime.bench.runners.probe import probe
from fastv_runtime.bench.workloads import Workload
from fastv_runtime.config.bundle import Bundle

Status = Callable[[str], AbstractContextManager[object]]
"""Shows what is being done, while it is."""


def load_bundles(
    bundles: Mapping[str, Bundle],
    workloads: Sequence[Workload],
    *,
    backend: str,
    device: str | None,
    threads: int | None,
    status: Status,
) -> tuple[list[RunnerRecord], list[BundleRunner]]:
    """A record of every bundle, and those that passed their self-test, loaded; a refused one's record says why.

    Memory is measured on the largest of the workloads. Raises UserError for a bundle that cannot be opened here.
    """
    largest = max(workloads, key=_size)
    records, loaded = [], []
    for name, bundle in bundles.items():
        plan = bundle.manifest.plan
        role = "baseline" if not plan.prunes else "bundle"
        record = RunnerRecord(name=name, role=role, settings=plan_settings(bundle.manifest))  # type: ignore[arg-type]
        choice = BackendChoice(path=str(bundle.path), name=name, backend=backend, device=device, threads=threads)
        try:
            with status(f"{name}: self-test and memory"):
                memory = measure_memory(choice, bundle, largest.request)
                runner = BundleRunner.load(choice, bundle)
        except Refused as error:
            records.append(record.model_copy(update={"refused": str(error)}))
            continue
        known = {
            "settings": runner.settings,
            "bundle": bundle_facts(bundle, runner.self_test),
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
