"""The report as data: what fastv-bench writes as JSON, draws as a page, and compares.

Its schema is published as docs/schemas/bench.schema.json.

Times are milliseconds, memory bytes, energy joules. `rounds` has every turn as it was measured; all that comes after
it in the file is computed from it (`analysis/`; its quantities: `analysis/metrics/`) and is there for readers who do
not want to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastv_runtime.bench.analysis.device_profile import DeviceProfile
from fastv_runtime.bench.machine.conditions import Conditions
from fastv_runtime.bench.machine.environment import Environment
from fastv_runtime.bench.protocol import Measurement
from fastv_runtime.config.base import StrictModel
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.plan import Plan
from fastv_runtime.strict_json import read_model

REPORT_VERSION: Literal[4] = 4


class Figure(StrictModel):
    """A quantity over the rounds of a run."""

    median: float
    p5: float
    p95: float
    runs: int


class MemoryFigures(StrictModel):
    """Bytes of one runner alone in a process."""

    weights: int
    """Of its graphs, as they are stored."""
    caches: int
    """Keys and values, as they are allocated."""
    libraries: int
    """Resident before the model was loaded."""
    process: int
    """Most that was resident, all of it together."""
    workspace: int
    """The rest of that: activations, what the engine holds beside the weights (packed copies, its arena), tokenizer. At
    least 0: weights that are mapped and were not read are not resident."""


class BundleFacts(StrictModel):
    """What a bundle is, to find it again and to compute with."""

    path: str
    sha256: str
    """Of its manifest, which has those of all its files."""
    family: str
    source: dict[str, str]
    versions: dict[str, str]
    decoder: DecoderConfig
    plan: Plan
    """As it ran: its manifest's, with the `keep` and `length` that the benchmark was given."""
    dialect: str
    decoder_bytes: int
    """Weights that every decoded token reads."""
    self_test: dict[str, float]
    """Largest difference from transformers per graph, on this device."""


class RunnerRecord(StrictModel):
    """One that took part, or would have. A bundle that does not prune is a baseline."""

    name: str
    role: Literal["baseline", "bundle", "peer"]
    settings: dict[str, str]
    bundle: BundleFacts | None = None
    memory: MemoryFigures | None = None
    refused: str | None = None
    """Why there are no figures."""


class ImageRecord(StrictModel):
    name: str
    sha256: str
    width: int
    height: int


class WorkloadRecord(StrictModel):
    """What all were asked. The token counts are those of the baseline, or of the first that answered."""

    name: str
    images: tuple[ImageRecord, ...]
    prompt: str
    new_tokens: int
    prompt_tokens: int
    visual_tokens: int


class Round(StrictModel):
    """One turn of one runner. `index` counts rounds from 0, warm-up not counted."""

    index: int
    workload: str
    runner: str
    turn: Measurement
    joules: float | None = None


class Result(StrictModel):
    """One runner on one workload; `figures` by names of QUANTITIES."""

    runner: str
    workload: str
    pruned_length: int
    pruned_lengths: tuple[int, ...]
    """Of a bundle: after each of its cuts."""
    figures: dict[str, Figure]
    predicted: dict[str, float]
    """Quantities that the cost model and the device profile predict."""


class Ratio(StrictModel):
    """How many times faster than its baseline a runner is: that one's time by its own, round by round."""

    runner: str
    baseline: str
    workload: str
    quantity: str
    figure: Figure
    bound: float | None
    """What arithmetic allows: FLOPs for prefill and first token, bytes read for decode. None where it says nothing."""
    reached: float | None
    """Share of the time that the bound would save; None where it would save next to nothing."""
    verdict: str
    """The same in words."""


class BenchSettings(StrictModel):
    rounds: int
    warmup: int
    threads: int | None
    backend: str
    """`OWN`: of each bundle the one that its graphs are for."""
    device: str | None
    compute: str | None = None
    """What kernels were told to compute in; None: nothing."""


class Report(StrictModel):
    """One run of fastv-bench."""

    schema_version: Literal[4]
    version: str
    """Of fastv-edge."""
    created: str
    """UTC, ISO 8601."""
    command: str
    complete: bool
    """False for a run that was interrupted: it has the rounds that were measured by then."""
    settings: BenchSettings
    environment: Environment
    conditions: Conditions
    profiles: tuple[DeviceProfile, ...]
    """What predictions are made of: one for each precision."""
    noise: tuple[str, ...]
    """Why the figures should not be trusted, a line for each reason; empty for a quiet machine."""
    runners: tuple[RunnerRecord, ...]
    workloads: tuple[WorkloadRecord, ...]
    rounds: tuple[Round, ...]
    results: tuple[Result, ...]
    ratios: tuple[Ratio, ...]
    notes: tuple[str, ...]
    """What the reader must know: what was left out, and why."""

    def result(self, runner: str, workload: str) -> Result | None:
        return next((each for each in self.results if (each.runner, each.workload) == (runner, workload)), None)

    def ratio(self, runner: str, workload: str, quantity: str) -> Ratio | None:
        key = (runner, workload, quantity)
        return next((each for each in self.ratios if (each.runner, each.workload, each.quantity) == key), None)


def read_report(path: Path) -> Report:
    """The report in a file. Raises UserError for what is none, or one of another version."""
    return read_model(path, Report, "give the JSON that fastv-bench of this version wrote")
