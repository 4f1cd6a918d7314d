"""What plans without a bundle would take to the first token: a prediction from the bundles that were timed.

Bundles' time outside the decoder does not depend on K and keep; their time inside it follows its multiply-adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastv_calib.measurement.latency import Timing, bundle_latency
from fastv_export.calibration import Latency, Objectives, PlanFigures, Ttft
from fastv_export.points import KeptPoint


@dataclass(frozen=True)
class Prediction:
    """Milliseconds to the first token = `outside` + `fixed` + `rate` * multiply-adds of the decoder's layers."""

    outside: float
    fixed: float
    rate: float

    @classmethod
    def of(cls, timings: Sequence[Sequence[Timing]]) -> Prediction:
        """Fitted to the bundles' medians; with a fixed time if that predicts bundles better from the others."""
        error, fixed = _errors(timings)
        return cls._fitted(timings, error is not None and fixed is not None and fixed < error)

    @classmethod
    def _fitted(cls, timings: Sequence[Sequence[Timing]], with_fixed: bool) -> Prediction:
        flops = np.array([np.median([each.flops for each in one]) for one in timings])
        inside = np.array([np.median([each.ttft - each.outside for each in one]) for one in timings])
        outside = float(np.median([each.outside for one in timings for each in one]))
        if with_fixed and np.ptp(flops) > 0.05 * flops.max():
            rate, fixed = np.polyfit(flops, inside, 1)
            if rate > 0 and fixed > 0:
                return cls(outside, float(fixed), float(rate))
        return cls(outside, 0.0, float(inside.sum() / flops.sum()))

    def __call__(self, flops: float) -> float:
        return self.outside + self.fixed + self.rate * flops

    @staticmethod
    def error(timings: Sequence[Sequence[Timing]]) -> float | None:
        """Largest relative error with which the other bundles predict one of them; None for a single bundle."""
        return min((error for error in _errors(timings) if error is not None), default=None)


def _errors(timings: Sequence[Sequence[Timing]]) -> tuple[float | None, float | None]:
    """Largest error of a bundle as the others predict it: without a fixed time, and with one where three can tell."""

    def largest(with_fixed: bool) -> float:
        errors = []
        for left, one in enumerate(timings):
            others = [each for number, each in enumerate(timings) if number != left]
            prediction = Prediction._fitted(others, with_fixed)
            measured = np.median([each.ttft for each in one])
            errors.append(abs(prediction(float(np.median([each.flops for each in one]))) / measured - 1))
        return float(max(errors))

    return (largest(False) if len(timings) > 1 else None), (largest(True) if len(timings) > 2 else None)


@dataclass(frozen=True)
class Timed:
    """Bundles' figures, and times to the first token of any plan of a precision that one of them has."""

    latency: Latency
    predictions: dict[str, Prediction]
    """By precision of a point."""

    @classmethod
    def of(cls, paths: Sequence[str], timings: Sequence[Sequence[Timing]]) -> Timed:
        bundles = tuple(bundle_latency(path, one) for path, one in zip(paths, timings, strict=True))
        alike: dict[str, list[Sequence[Timing]]] = {}
        for bundle, one in zip(bundles, timings, strict=True):
            alike.setdefault(bundle.point.precision, []).append(one)
        errors = [error for error in map(Prediction.error, alike.values()) if error is not None]
        latency = Latency(bundles=bundles, error=max(errors, default=None))
        return cls(latency, {precision: Prediction.of(those) for precision, those in alike.items()})

    def ttft(self, point: KeptPoint, flops: float) -> Ttft | None:
        """Of one plan: measured where a bundle has it. flops: of its prefill, median over the timed samples."""
        for bundle in self.latency.bundles:
            if bundle.point == point:
                return Ttft(ms=bundle.ttft.median, measured=True)
        prediction = self.predictions.get(point.precision)
        return None if prediction is None else Ttft(ms=prediction(flops), measured=False)

    def doubts(self, chosen: PlanFigures, objectives: Objectives) -> list[str]:
        """Warnings where a time was asked for that was only predicted."""
        if objectives.max_ttft is None or chosen.ttft is None or chosen.ttft.measured:
            return []
        error = self.latency.error
        off = "" if error is None else f", by bundles that predict each other to {error:.0%}"
        return [
            f"{chosen.point}: its {chosen.ttft.ms:.3g} ms to the first token are predicted{off}: "
            "export it and give that bundle as one more of `bundles`"
        ]
