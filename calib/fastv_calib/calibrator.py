"""A checkpoint and what is measured on it: samples in, measurements and the chosen plan out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from fastv_calib.choice.choose import check_objectives, choose, doubts
from fastv_calib.choice.summary import Costing, baselines, figures, lengths, pareto, prefill_flops, unpruned
from fastv_calib.distribution.cluster import Work, measure_on_ray
from fastv_calib.distribution.machines import (
    LOCAL,
    OFF,
    Machines,
    default_threads,
    has_ray,
    local_workers,
    memory_of,
    pays,
    torch_threads,
)
from fastv_calib.measurement import activations
from fastv_calib.measurement.latency import check_bundles, timed
from fastv_calib.measurement.measure import load_measure
from fastv_calib.measurement.outcomes import Yielded
from fastv_calib.measurement.predict import Timed
from fastv_calib.measurement.quantized import weight_bytes
from fastv_calib.measurement.results import Results
from fastv_calib.plans import points
from fastv_calib.report.evidence import Evidence, gather
from fastv_calib.samples.data import Sample
from fastv_calib.samples.views import Viewer
from fastv_calib.settings import Asked
from fastv_export import support
from fastv_export.calibration import (
    SCHEMA_VERSION,
    Calibration,
    ChosenPlan,
    Objectives,
    PlanFigures,
    source_digests,
)
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.reading import within_bounds
from fastv_export.checkpoint.skeleton import build_without_weights
from fastv_export.families import family_of
from fastv_export.plan import decoder_dimensions
from fastv_export.points import KeptPoint
from fastv_export.quantization.presets import FEW_BITS
from fastv_runtime.config.cost import BYTES
from fastv_runtime.config.lengths import capacity, pruned_lengths
from fastv_runtime.errors import UserError, install


class Calibrator:
    """A checkpoint and what is to be measured on it; refuses what makes no sense for it.

    Raises UserError, before anything is loaded or hashed.
    """

    def __init__(self, source: str | Path, asked: Asked, objectives: Objectives):
        self.checkpoint = Checkpoint(source)
        self.family = family_of(self.checkpoint.model_type(), str(self.checkpoint.path / "config.json"))
        self.config = support.check(self.checkpoint, self.family, asked.image_tokens)
        with within_bounds(self.checkpoint.path / "config.json"):
            self.decoder = decoder_dimensions(self.config, self.family)
        self.parameters = sum(prod(tensor.shape) for tensor in self.checkpoint.tensors.values())
        vision, video = self.family.vision(self.config, asked.image_tokens), self.family.video(self.config)
        self.settings = asked.settled(self.decoder, vision, video)
        self.objectives = objectives
        check_objectives(objectives, min(self._weight_bytes(point) for point in points(self.settings)))

    def measure(
        self,
        samples: Sequence[Sample],
        results: Results,
        advance: Callable[[], None],
        machines: Machines,
        say: Callable[[str], None],
    ) -> None:
        """Measure the samples that `results` does not have; `advance` is called after each sample, those included.

        say: is told, in a line, what the user may want to know of how it goes.
        """
        observed = {sample.key for sample in samples[: activations.SAMPLES]}
        unlike = {
            sample.key: sample
            for sample in samples
            if sample.key not in results.measured or (sample.key in observed and sample.key not in results.statistics)
        }
        left = list(unlike.values())
        self._check_videos(left)
        for _ in range(len(samples) - len(left)):
            advance()

        def add(yielded: Yielded) -> None:
            key = yielded.measured.key
            if key in observed:
                results.statistics.add(key, yielded.statistics)
            if key not in results.measured:
                results.add(yielded.measured)
            for note in yielded.notes:
                say(note)
            advance()

        if machines.ray in (None, OFF):
            left = self._measure_here(left, results.threads, add, machines, say)
        if left:
            address, workers = machines.ray or LOCAL, machines.workers
            if address == LOCAL:
                workers = local_workers(machines, results.threads, self._memory, len(left))
                say(f"{workers} Ray workers on this machine, {results.threads} threads each")
            work = Work(self.checkpoint.path.absolute(), self.settings, results.threads, self._memory)
            measure_on_ray(address, workers, work, left, add)

    def results(self, path: Path, threads: int | None = None) -> Results:
        """Measurements at `path`, of this checkpoint by these settings: those that are there, and those to come.

        threads: per sample; None means those of the measurements that are there, or what suits this machine.
        """
        new = threads or default_threads(self._memory)
        results = Results(path, source_digests(self.checkpoint), self.settings, new)
        if threads is not None and threads != results.threads:
            raise UserError(
                f"`threads` {threads}: {path} has measurements on {results.threads}, and figures' last bits depend on "
                "it: leave it out, or give another `output`"
            )
        return results

    def check_bundles(self, bundles: Sequence[str], results: Results) -> None:
        """UserError for bundles whose times say nothing of this checkpoint's plans."""
        vision = self.family.vision(self.config, self.settings.image_tokens)
        check_bundles(bundles, results.source, vision, self.settings.precisions)

    def summarise(
        self, samples: Sequence[Sample], results: Results, sidecar: Path, times: Timed | None = None
    ) -> Calibration:
        """Figures of all plans from samples that were measured, and the choice.

        Nothing is chosen where no plan meets the objectives.
        sidecar: gets the activations. times: of bundles, on some of the samples.
        """
        measured = [results.measured[sample.key] for sample in samples]
        costing = Costing(self.decoder, self._weight_bytes, lengths(measured), self.objectives)
        # By plan, then by sample; the unpruned model last.
        by_plan = list(zip(*(sample.outcomes for sample in measured), strict=True))
        kinds = [sample.kind for sample in samples]
        plans = [
            figures(point, outcomes, measured, kinds, costing)
            for point, outcomes in zip(points(self.settings), by_plan, strict=True)
        ]
        plans.append(unpruned(measured, kinds, costing))
        if times is not None:
            plans = [self._hastened(plan, times, timed(samples), results) for plan in plans]
        chosen = choose(plans, self.objectives)
        matches = [[outcome.match for outcome in outcomes] for outcomes in by_plan]
        warnings = [] if chosen is None else doubts(plans, matches, chosen, self.objectives)
        silent = sum(not sample.answer for sample in measured)
        if chosen is not None and silent:
            warnings.append(
                f"the unpruned model's answer is empty on {silent} of {len(measured)} samples, where agreeing is no "
                "merit: ask what it answers, or look at its chat template"
            )
        if chosen is not None and times is not None:
            warnings += times.doubts(plans[chosen], self.objectives)
        return Calibration(
            schema_version=SCHEMA_VERSION,
            family=self.family.model_type,
            source=results.source,
            settings=self.settings,
            objectives=self.objectives,
            samples=len(measured),
            answers=sum(sample.correct is not None for sample in measured),
            lengths=costing.lengths,
            attention=tuple(np.mean([sample.attention for sample in measured], axis=0).tolist()),
            plans=tuple(plans),
            baselines=tuple(baselines(self.settings, measured, kinds, costing)),
            pareto=pareto(plans),
            activations=results.statistics.merge([sample.key for sample in samples[: activations.SAMPLES]], sidecar),
            chosen=None if chosen is None else self._choice(plans[chosen].point, costing),
            warnings=tuple(warnings),
            latency=None if times is None else times.latency,
        )

    def evidence(
        self, calibration: Calibration, samples: Sequence[Sample], results: Results, advance: Callable[[], None]
    ) -> Evidence:
        """What a report shows of the samples of a calibration; `advance` is called after each."""
        views = Viewer(self.checkpoint, self.family, self.settings.image_tokens)
        return gather(calibration, samples, [results.measured[sample.key] for sample in samples], views, advance)

    def _check_videos(self, samples: Sequence[Sample]) -> None:
        shown = next((sample for sample in samples if sample.video is not None), None)
        if shown is not None and self.family.video(self.config) is None:
            raise UserError(
                f"{shown.where}: {self.family.model_type} models take no video: give images, of its frames say"
            )

    @property
    def _memory(self) -> int:
        few = sum(name in FEW_BITS for name in self.settings.precisions)
        return memory_of(self.parameters * (BYTES["float32"] + few))  # rounded weights are kept, a byte each

    @cached_property
    def _meta(self) -> Any:
        return build_without_weights(self.checkpoint, self.family)[0]

    def _weight_bytes(self, point: KeptPoint) -> int:
        precision = self.objectives.precision
        if point.precision not in FEW_BITS:
            return self.parameters * BYTES[precision]
        return weight_bytes(self._meta, self.family, FEW_BITS[point.precision], point.layers, precision)

    def _measure_here(
        self,
        samples: Sequence[Sample],
        threads: int,
        add: Callable[[Yielded], None],
        machines: Machines,
        say: Callable[[str], None],
    ) -> list[Sample]:
        """Measure samples in this process; those that are left when it has seen that workers would pay."""
        if not samples:
            return []
        with torch_threads(threads):
            measure = load_measure(self.checkpoint.path, self.settings)
            for done, sample in enumerate(samples, 1):
                start = monotonic()
                add(measure(sample))
                left = samples[done:]
                workers = local_workers(machines, threads, self._memory, len(left))
                # The first one warms up.
                if machines.ray is None and done == 2 and pays(len(left), monotonic() - start, workers):
                    if has_ray():
                        return list(left)
                    say(
                        f"{threads} of {threads * workers} cores are at work: {install('ray')} to measure "
                        f"{workers} samples at a time, or give `threads` {threads * workers}"
                    )
        return []

    def _hastened(self, plan: PlanFigures, times: Timed, samples: Sequence[Sample], results: Results) -> PlanFigures:
        flops = [prefill_flops(self.decoder, plan.point, results.measured[sample.key]) for sample in samples]
        return plan.model_copy(update={"ttft": times.ttft(plan.point, float(np.median(flops)))})

    def _choice(self, point: KeptPoint, costing: Costing) -> ChosenPlan:
        plan, lengths = costing.plan(point), costing.lengths
        return ChosenPlan(
            cuts=point.cuts,
            length="exact",
            max_text=costing.max_text,
            image_tokens=self.settings.image_tokens,
            precision=point.precision,
            fixed_lengths=pruned_lengths(plan, lengths.text_max, lengths.visual_max, "fixed", capacity(plan)),
        )
