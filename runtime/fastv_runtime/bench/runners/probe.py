"""A short probe of a bundle's decoder: prompts of several lengths and some decoded tokens, for a device profile."""

from __future__ import annotations

from statistics import median

import numpy as np

from fastv_runtime.bench.analysis.device_profile import ProbePoint, stage_mlps
from fastv_runtime.config.cost import tokens_per_layer
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.pipeline import Pipeline

LENGTHS = 6
REPEATS = 5
"""Of each length, the first to warm up; lengths take turns."""
SHORTEST = 16
STEPS = 8
TEXT = 8
"""Rows of a probe's prompt that cannot be pruned."""


def probe(pipeline: Pipeline) -> list[ProbePoint]:
    """Runs of the pipeline's own graphs, from short prompts to the longest that its plan supports, and decoded tokens.

    Ends the generation that the pipeline is at.
    """
    longest = pipeline.capacity.prompt
    lengths = sorted({int(rows) for rows in np.geomspace(min(SHORTEST, longest), longest, LENGTHS)})
    times: dict[int, list[dict[str, float]]] = {rows: [] for rows in lengths}
    for _ in range(REPEATS):
        for rows in lengths:
            times[rows].append(_prompt(pipeline, rows))
    points: list[ProbePoint] = []
    for rows, several in times.items():
        middle = {stage: median(each[stage] for each in several[1:]) for stage in several[0]}
        points += _prompt_points(pipeline, rows, middle)
    return [*points, *(_token_point(pipeline, rows) for rows in (lengths[0], lengths[-1]))]


def _prompt(pipeline: Pipeline, rows: int) -> dict[str, float]:
    """Milliseconds of the stages of a prompt of noise."""
    decoder = pipeline.decoder
    width = pipeline.bundle.manifest.decoder.hidden_size
    decoder.prompt.rows(0, rows).write(
        np.random.default_rng(0)
        .standard_normal((1, rows, width), dtype=np.float32)
        .reshape(decoder.prompt.rows(0, rows).shape)
    )
    for buffer in decoder.deepstack:
        buffer.rows(0, rows).zero()
    prunable, pruned = _pruning(pipeline, rows)
    axes = pipeline.bundle.manifest.decoder.position_axes
    clock = Clock(settle=pipeline.backend.synchronize)
    decoder.prefill(np.tile(np.arange(rows), (axes, 1)), prunable, pruned, clock)
    return clock.timings()


def _pruning(pipeline: Pipeline, rows: int) -> tuple[np.ndarray, list[int]]:
    """What may go, and how many are left after each cut: half of it, half of that, ..."""
    prunable = np.arange(rows) < rows - TEXT
    visual = int(prunable.sum())
    most = pipeline.capacity.rows[1:]
    return prunable, [min(rows - visual + (visual + 1 >> cut), room) for cut, room in enumerate(most, 1)]


def _prompt_points(pipeline: Pipeline, rows: int, ms: dict[str, float]) -> list[ProbePoint]:
    decoder, plan = pipeline.bundle.manifest.decoder, pipeline.bundle.manifest.plan
    whole = decoder.num_hidden_layers
    return [
        ProbePoint(
            decoder=decoder,
            layers=len(plan.layers(stage.graph, whole)),
            mlps=stage_mlps(plan, stage, whole),
            rows=given,
            head=stage.cut is None,
            cached=0,
            ms=ms["suffix" if stage.cut is None else stage.graph],
        )
        for stage, given in zip(plan.stages, (rows, *_pruning(pipeline, rows)[1]), strict=True)
    ]


def _token_point(pipeline: Pipeline, rows: int) -> ProbePoint:
    """Steps after a prompt. A bundle that prunes caches less behind its cuts, which a point's mean stands for."""
    room = pipeline.bundle.manifest.plan.max_new_tokens - 1
    _prompt(pipeline, rows)
    times = []
    for _ in range(min(STEPS, room)):
        clock = Clock(settle=pipeline.backend.synchronize)
        with clock("suffix"):
            pipeline.decoder.step()
        times.append(clock.timings()["suffix"])
    decoder, plan = pipeline.bundle.manifest.decoder, pipeline.bundle.manifest.plan
    whole = decoder.num_hidden_layers
    cached = sum(tokens_per_layer(decoder, plan.cut_layers, (rows, *_pruning(pipeline, rows)[1]))) // whole
    ms = median(times[1:] or times)
    return ProbePoint(decoder=decoder, layers=whole, mlps=whole, rows=1, head=True, cached=cached, ms=ms)
