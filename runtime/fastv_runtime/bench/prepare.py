"""From opened bundles to contestants that may be measured, and to what their predictions are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from fastv_runtime.bench.alone import measure_memory
from fastv_runtime.bench.contestant import Refused
from fastv_runtime.bench.facts import bundle_facts
from fastv_runtime.bench.models import ContestantRecord, Settings
from fastv_runtime.bench.ours import BundleContestant, Choice, plan_settings
from fastv_runtime.bench.probe import probe
from fastv_runtime.bench.profile import DeviceProfile, fit
from fastv_runtime.bench.workloads import Workload
from fastv_runtime.bundle import Bundle
from fastv_runtime.engines.backends import BackendName, DeviceName

Status = Callable[[str], AbstractContextManager[object]]
"""Shows what is being done, while it is."""


def load_bundles(
    bundles: Mapping[str, Bundle],
    workloads: Sequence[Workload],
    *,
    backend: BackendName,
    device: DeviceName | None,
    threads: int | None,
    status: Status,
) -> tuple[list[ContestantRecord], list[BundleContestant]]:
    """A record of every bundle, and those that passed their self-test, loaded; a refused one's record says why.

    Memory is measured on the largest of the workloads. Raises UserError for a bundle that cannot be opened here.
    """
    largest = max(workloads, key=_size)
    records, loaded = [], []
    for name, bundle in bundles.items():
        plan = bundle.manifest.plan
        role = "baseline" if plan.layer is None else "bundle"
        record = ContestantRecord(name=name, role=role, settings=plan_settings(bundle.manifest))  # type: ignore[arg-type]
        choice = Choice(path=str(bundle.path), name=name, backend=backend, device=device, threads=threads)
        try:
            with status(f"{name}: self-test and memory"):
                memory = measure_memory(choice, bundle, largest.request)
                contestant = BundleContestant.load(choice, bundle)
        except Refused as error:
            records.append(record.model_copy(update={"refused": str(error)}))
            continue
        known = {
            "settings": contestant.settings,
            "bundle": bundle_facts(bundle, contestant.self_test),
            "memory": memory,
        }
        records.append(record.model_copy(update=known))
        loaded.append(contestant)
    return records, loaded


def probe_baselines(
    contestants: Sequence[BundleContestant],
    records: Sequence[ContestantRecord],
    settings: Settings,
    *,
    machine: str,
    status: Status,
) -> list[DeviceProfile]:
    """A device profile of each unpruned bundle. `machine`: what it is called."""
    facts = {each.name: each.bundle for each in records}
    made = []
    for contestant in contestants:
        known = facts[contestant.name]
        if known is None or known.plan.layer is not None or contestant.pipeline is None:
            continue
        with status(f"{contestant.name}: probe for predictions"):
            points = probe(contestant.pipeline)
        made.append(
            fit(
                points,
                known.plan,
                device=machine,
                backend=contestant.pipeline.backend.name,
                threads=settings.threads,
                dialect=known.dialect,
            )
        )
    return made


def _size(workload: Workload) -> tuple[int, int]:
    pictures = workload.pictures()
    return len(pictures), sum(each.width * each.height for each in pictures)
