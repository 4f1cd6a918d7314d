"""The one comparison: an output of a graph beside what transformers computed, and beside how far it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fastv_runtime.backends.base import Engine
from fastv_runtime.config.bundle import Manifest
from fastv_runtime.verification.golden import golden_cases, known_outputs
from fastv_runtime.verification.tolerances import engine_tolerance


@dataclass(frozen=True)
class Comparison:
    """One output of a graph, or of a chain of graphs, in one case."""

    graph: str
    output: str
    difference: float
    """See `difference`."""
    limit: float
    """What rounding explains of it."""
    cosine: float
    """Of all values."""
    max_error: float
    """Largest absolute error of a value."""

    @property
    def passed(self) -> bool:
        return bool(self.difference <= self.limit)  # written so that a NaN fails

    @property
    def share(self) -> float:
        """Of the limit; infinite for NaN."""
        return float(np.nan_to_num(self.difference / self.limit, nan=np.inf))

    def __str__(self) -> str:
        return f"{self.output} by {self.difference:.2g} (limit {self.limit:.1g})"


def compare(graph: str, output: str, actual: np.ndarray, expected: np.ndarray, limit: float) -> Comparison:
    """What a graph computed for an output beside what transformers did."""
    ours, theirs = _filled(actual, expected).astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    lengths = np.linalg.norm(ours) * np.linalg.norm(theirs)
    return Comparison(
        graph=graph,
        output=output,
        difference=difference(actual, expected),
        limit=limit,
        cosine=float(ours @ theirs / lengths) if lengths else float(np.array_equal(ours, theirs)),
        max_error=float(np.abs(ours - theirs).max(initial=0.0)),
    )


def compare_engine(
    graph: str, engine: Callable[[], Engine], manifest: Manifest, golden: Mapping[str, np.ndarray]
) -> Iterator[Comparison]:
    """Each output that the golden cases of a graph know, as an engine computes it.

    engine: makes the engine, if there is a case to run. golden: arrays by their names in the bundle's file.
    """
    spec, plan = manifest.graphs[graph], manifest.plan
    loaded: Engine | None = None
    for case in golden_cases(graph, spec, golden):
        loaded = loaded or engine()
        for output, (actual, expected) in known_outputs(loaded, case).items():
            limit = engine_tolerance(graph, plan, spec, manifest.decoder, output, loaded.computes)
            yield compare(graph, output, actual, expected, limit)


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Each token's root mean square error, relative to its values', and of these the root mean square over tokens.

    Tokens are the axis before the last; of a cache, and of scores of its keys, only those that the case knows count.
    Relative per token, since the first token's hidden state may be a thousand times larger than the others'.
    """
    actual = _filled(actual, expected)
    axes = tuple(axis for axis in range(expected.ndim) if axis != expected.ndim - 2)
    wanted = expected.astype(np.float64)
    error = np.sqrt(((actual.astype(np.float64) - wanted) ** 2).sum(axis=axes))
    scale = np.sqrt((wanted**2).sum(axis=axes))
    # A token that is all but zero is measured by the others.
    relative = error / np.maximum(scale, 1e-3 * scale.max() + np.finfo(np.float32).tiny)
    return float(np.sqrt((relative**2).mean()))


def _filled(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """What a graph computed for its whole capacity, cut to what the case knows."""
    return actual[tuple(slice(length) for length in expected.shape)]
