"""Saved graphs on their golden vectors: what differs from transformers, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastv_export.execution.chunked import LIMIT, ChunkedRun, Read, run_chunked
from fastv_runtime.config.bundle import GraphSpec, Plan
from fastv_runtime.verification import Case, difference, golden_cases


def verify_graph(
    name: str,
    spec: GraphSpec,
    folder: Path,
    golden: Mapping[str, np.ndarray],
    plan: Plan,
    read: Read = lambda count: None,
    *,
    beside: Sequence[ChunkedRun] = (),
    limit: int = LIMIT,
) -> dict[str, float]:
    """Difference of each output that the golden vectors know, at its worst over the cases, in the graph's order.

    Empty if the golden vectors have no case for this graph. folder: the bundle. read: called with the number of bytes
    of weights read since its last call. beside: other runs of the same graph, on the same weights as they are read.
    """
    cases = [_Compared(case) for case in golden_cases(name, spec, golden, plan)]
    runs = [*(case.run for case in cases), *beside]
    if runs:
        run_chunked(folder / spec.file, runs, read, limit=limit)
    found = [case.differences for case in cases]
    return {
        tensor.name: max(each[tensor.name] for each in found if tensor.name in each)
        for tensor in spec.outputs
        if any(tensor.name in each for each in found)
    }


class _Compared:
    """A golden case, and how far what its run computes is from it."""

    def __init__(self, case: Case):
        self.differences: dict[str, float] = {}
        self.run = ChunkedRun(case.input, self._compare)
        self._case = case
        self._outputs = {tensor.name for tensor in case.spec.outputs}

    def _compare(self, name: str, value: np.ndarray) -> None:
        expected = self._case.expected(name) if name in self._outputs else None
        if expected is not None:
            self.differences[name] = difference(value, expected)
