"""95% intervals of shares and means, and whether two plans can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt

import numpy as np

from fastv_export.calibration import Estimate

Z = 1.959964
"""Of a normal distribution's 95%."""
RESAMPLES = 2000
SEED = 0


def wilson(hits: Sequence[bool]) -> Estimate:
    """Share of hits with Wilson's score interval (1927), which holds for few samples and near 0 and 1."""
    n = len(hits)
    share = sum(hits) / n
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # At 0 and at 1 the interval ends there; rounding must not say otherwise.
    low = 0.0 if share == 0 else middle - half
    high = 1.0 if share == 1 else middle + half
    return Estimate(mean=share, low=low, high=high)


def bootstrap(values: Sequence[float]) -> Estimate:
    """Mean with the percentile interval of means of resamples, the same at every run."""
    array = np.asarray(values, np.float64)
    rng = np.random.default_rng(SEED)
    means = np.sort([array[rng.integers(array.size, size=array.size)].mean() for _ in range(RESAMPLES)])
    low, high = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
    return Estimate(mean=float(array.mean()), low=float(low), high=float(high))


def told_apart(first: Sequence[bool], second: Sequence[bool]) -> bool:
    """Whether two plans' hits on the same samples differ by more than chance: McNemar's exact test at 5%."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    tail: float = sum(comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    return min(1.0, 2 * tail) < 0.05
