"""A short probe of a bundle's decoder: prompts of several lengths and some decoded tokens, for a device profile."""

from __future__ import annotations

from statistics import median

import numpy as np

from fastv_runtime.bench.analysis.device_profile import ProbePoint, graph_mlps
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


def _pruning(pipeline: Pipeline, rows: int) -> tuple[np.ndarray, int]:
    prunable = np.arange(rows) < rows - TEXT
    if not pipeline.bundle.manifest.plan.prunes:
        return prunable, rows
    return prunable, min(rows - int(prunable.sum()) // 2, pipeline.capacity.pruned)


def _prompt_points(pipeline: Pipeline, rows: int, ms: dict[str, float]) -> list[ProbePoint]:
    decoder, plan = pipeline.bundle.manifest.decoder, pipeline.bundle.manifest.plan
    whole = decoder.num_hidden_layers
    first = len(plan.layers("prefix", whole))
    pruned = _pruning(pipeline, rows)[1]

    def point(stage: str, layers: int, rows: int, head: bool) -> ProbePoint:
        mlps = graph_mlps(layers, whole, head)
        return ProbePoint(decoder=decoder, layers=layers, mlps=mlps, rows=rows, head=head, cached=0, ms=ms[stage])

    points = [point("suffix", whole - first, pruned, True)]
    return [*points, point("prefix", first, rows, False)] if first else points


def _token_point(pipeline: Pipeline, rows: int) -> ProbePoint:
    """Steps after a prompt. A bundle that prunes caches less behind layer K, which a point's mean stands for."""
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
    first = len(plan.layers("prefix", whole))
    cached = (first * rows + (whole - first) * _pruning(pipeline, rows)[1]) // whole
    ms = median(times[1:] or times)
    return ProbePoint(decoder=decoder, layers=whole, mlps=whole, rows=1, head=True, cached=cached, ms=ms)
