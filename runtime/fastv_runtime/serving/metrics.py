"""Figures of a server for Prometheus, in a registry of its own. Times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastv_runtime.errors import missing_extra
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.clock import STAGES, in_stages

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

OUTCOMES = ("stop", "length", "deadline", "cancelled", "refused", "failed")
"""Of a request: the first two are whole answers. `refused`: the queue was full, the server stops, or what was asked
cannot be used; `failed`: any other error."""

LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Upper bounds of buckets: for waits and whole prompts, and for one token."""


class Metrics:
    """Counters, gauges and histograms; `registry` is what `prometheus_client.generate_latest` takes.

    May be used from any thread. Raises UserError where prometheus_client is not installed.
    """

    registry: CollectorRegistry

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError:
            raise missing_extra("prometheus-client", "serve") from None
        self.registry = registry = CollectorRegistry()
        self._running = Gauge("fastv_running_requests", "Requests that have a slot", registry=registry)
        self._waiting = Gauge("fastv_waiting_requests", "Requests that wait for a slot", registry=registry)
        self._requests = Counter("fastv_requests", "Requests by how they ended", ["outcome"], registry=registry)
        self._prompt = Counter("fastv_prompt_tokens", "Tokens of prompts, visual ones included", registry=registry)
        self._visual = Counter("fastv_visual_tokens", "Visual tokens of prompts", registry=registry)
        self._kept = Counter("fastv_kept_visual_tokens", "Visual tokens left after the last cut", registry=registry)
        self._generated = Counter("fastv_generated_tokens", "Tokens of answers", registry=registry)
        self._reused = Counter(
            "fastv_reused_tokens", "Tokens of prompts whose caches an earlier turn had left", registry=registry
        )
        self._hits = Counter("fastv_feature_cache_hits", "Images whose features were kept", registry=registry)
        self._misses = Counter("fastv_feature_cache_misses", "Images that were encoded", registry=registry)
        self._looked_up = (0, 0)
        self._first = Histogram(
            "fastv_time_to_first_token_seconds", "From submission, waiting included", buckets=LONG, registry=registry
        )
        self._token = Histogram(
            "fastv_time_per_token_seconds",
            "From one token of an answer to the next, other answers' turns included",
            buckets=SHORT,
            registry=registry,
        )
        self._stage = Histogram("fastv_stage_seconds", "Stages of a prompt", ["stage"], buckets=LONG, registry=registry)
        self._wait = Histogram(
            "fastv_queue_wait_seconds",
            "From submission to a slot, preparation included",
            buckets=LONG,
            registry=registry,
        )
        # Every series is there from the start: a rate over one that appears later misses its first count.
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        for stage in STAGES:
            self._stage.labels(stage)

    def occupied(self, running: int, waiting: int) -> None:
        """How many requests have a slot, and how many wait for one."""
        self._running.set(running)
        self._waiting.set(waiting)

    def started(self, answer: Answer, timings_ms: Mapping[str, float], waited_s: float) -> None:
        """A prompt was read. timings_ms: as `Answer.timings_ms` has them; waited_s: since it was submitted."""
        self._prompt.inc(answer.prompt_tokens)
        self._visual.inc(answer.visual_tokens)
        self._kept.inc(len(answer.kept_visual_tokens))
        self._reused.inc(answer.reused_tokens)
        self._wait.observe(waited_s)
        for stage, ms in in_stages(timings_ms).items():
            self._stage.labels(stage).observe(ms / 1000)

    def first_tokens(self, count: int, seconds: float) -> None:
        """What the first step of an answer made, so long after it was submitted."""
        self._generated.inc(count)
        self._first.observe(seconds)

    def more_tokens(self, count: int, seconds: float) -> None:
        """What a further step made, so long after the one before. A step of several tokens is shared by them."""
        self._generated.inc(count)
        for _ in range(count):
            self._token.observe(seconds / count)

    def looked_up(self, hits: int, misses: int) -> None:
        """What was found among the features that are kept, and what was not: both since the model was loaded."""
        before, self._looked_up = self._looked_up, (hits, misses)
        self._hits.inc(hits - before[0])
        self._misses.inc(misses - before[1])

    def ended(self, outcome: str) -> None:
        """A request ended, in one of OUTCOMES."""
        self._requests.labels(outcome).inc()
