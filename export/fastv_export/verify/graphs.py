"""Saved graphs on their golden vectors: what differs from transformers, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastv_export.execution.chunked import run_chunked
from fastv_export.execution.runs import LIMIT, ChunkedRun, Read
from fastv_runtime.config.bundle import DecoderConfig, GraphSpec
from fastv_runtime.config.plan import Plan
from fastv_runtime.verification.comparison import Comparison, compare
from fastv_runtime.verification.golden import Case, golden_cases
from fastv_runtime.verification.tolerances import tolerance


def verify_graph(
    name: str,
    spec: GraphSpec,
    folder: Path,
    golden: Mapping[str, np.ndarray],
    plan: Plan,
    dimensions: DecoderConfig,
    read: Read = lambda count: None,
    *,
    beside: Sequence[ChunkedRun] = (),
    limit: int = LIMIT,
) -> list[Comparison]:
    """Each output that the golden vectors know, at its worst over the cases, in the graph's order.

    Empty if the golden vectors have no case for this graph. folder: the bundle. read: called with the number of bytes
    of weights read since its last call. beside: other runs of the same graph, on the same weights as they are read.
    """
    found: dict[str, Comparison] = {}

    def compared(case: Case) -> ChunkedRun:
        def check(output: str, value: np.ndarray) -> None:
            expected = case.expected(output) if output in outputs else None
            if expected is not None:
                allowed = tolerance(plan, spec, dimensions, output)
                one = compare(name, output, value, expected, allowed)
                found[output] = max(found.get(output, one), one, key=lambda each: each.share)

        return ChunkedRun(case.input, check)

    outputs = [tensor.name for tensor in spec.outputs]
    runs = [*map(compared, golden_cases(name, spec, golden)), *beside]
    if runs:
        run_chunked(folder / spec.file, runs, read, limit=limit)
    return [found[output] for output in outputs if output in found]
