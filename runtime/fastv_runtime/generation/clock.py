"""Wall-clock time of one generation: by stage, to the first token, and per decoded token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

STAGES = ("preprocess", "vision", "prefix", "select", "suffix")
"""Of every generation. A plan of several cuts has more, by the names of its graphs."""


def in_stages(timings_ms: Mapping[str, float]) -> dict[str, float]:
    """Timings by STAGES alone: of several cuts `select` has them all, and `suffix` all layers behind the first."""
    found = dict.fromkeys(STAGES, 0.0)
    for name, ms in timings_ms.items():
        stage = "suffix" if name.startswith("middle") else "select" if name.startswith("select") else name
        if stage in found:
            found[stage] += ms
    return found


class Clock:
    """Starts when it is made. `settle`: waits until the work of a stage, which a device may still be at, has ended."""

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self._settle = settle
        self._start = perf_counter()
        self._stages = dict.fromkeys(STAGES, 0.0)
        self._tokens: list[float] = []

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the work inside as part of a stage."""
        start = perf_counter()
        yield
        self._settle()
        self._stages[stage] = self._stages.get(stage, 0.0) + perf_counter() - start

    def token(self) -> None:
        """A token was chosen."""
        self._tokens.append(perf_counter())

    def leave_out(self, seconds: float) -> None:
        """Time before the first token in which the generation waited for its turn."""
        self._start += seconds

    def timings(self) -> dict[str, float]:
        """Milliseconds: every stage, `ttft` (0 before the first token) and `decode_per_token`, the mean of the rest."""
        stages = dict(self._stages)
        stages["suffix"] = stages.pop("suffix")  # behind those of further cuts, as it runs
        seconds = {**stages, "ttft": 0.0, "decode_per_token": 0.0}
        if self._tokens:
            seconds["ttft"] = self._tokens[0] - self._start
            seconds["decode_per_token"] = (self._tokens[-1] - self._tokens[0]) / max(1, len(self._tokens) - 1)
        return {name: 1000 * value for name, value in seconds.items()}
