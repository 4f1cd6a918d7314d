"""A bounded queue before a few slots, threads that make questions ready, and the one that runs the graphs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic

from fastv_runtime.generation.calls.arguments import whole_number
from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.model import Model
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler.conversations import Conversations
from fastv_runtime.serving.scheduler.jobs import Job
from fastv_runtime.serving.scheduler.queue import JobQueue, ReadyPrompt, WaitingJob, outcome_of
from fastv_runtime.serving.scheduler.ticket import Ticket
from fastv_runtime.serving.scheduler.worker import GraphWorker

CACHE_BYTES = 256 * 2**20
"""Of what is kept for later requests, by default."""
FOR_FEATURES = 4
"""One part in so many of it is for features of images."""
PREPARING = 2
"""Threads that make questions ready."""


class Scheduler:
    """Runs jobs on a model, as many at a time as there are slots, one token of each in turn.

    slots: each has buffers of its own, as large as a pipeline's.
    waiting: jobs beyond those that run; `submit` refuses more.
    cache_bytes: of what is kept for later requests, at most; 0 keeps nothing. A quarter is for features of images, in
    the model's own cache, which may be larger; the rest for conversations that have lost their slot.
    Raises UserError for numbers that cannot be used, and where the buffers do not fit into memory.
    """

    def __init__(
        self, model: Model, *, slots: int = 1, waiting: int = 16, cache_bytes: int = CACHE_BYTES, metrics: Metrics
    ):
        whole_number("slots", slots, 1)
        whole_number("waiting", waiting, 0)
        whole_number("cache_bytes", cache_bytes, 0)
        self._model = model
        self.metrics = metrics
        """What is counted here."""
        self._queue = JobQueue(slots, waiting, metrics)
        self._pool = ThreadPoolExecutor(PREPARING, "fastv-prepare")
        features = cache_bytes // FOR_FEATURES
        model.features.limit = max(model.features.limit, features)
        conversations = Conversations(cache_bytes - features)
        self._graphs = GraphWorker(model, self._queue, metrics, conversations, slots=slots)
        self._worker = threading.Thread(target=self._graphs.run, name="fastv-graphs", daemon=True)
        self._worker.start()

    @property
    def running(self) -> int:
        """Jobs that have a slot."""
        return self._queue.running

    @property
    def waiting(self) -> int:
        """Jobs that were accepted and have none yet."""
        return len(self._queue)

    @property
    def ready(self) -> bool:
        """Whether jobs are taken: not while stopping, nor if the thread of the graphs has died."""
        return self._worker.is_alive() and not self._queue.stopping

    def submit(self, job: Job) -> Ticket:
        """Take a job. Returns at once, from any thread; raises QueueFullError or StoppingError."""
        waiting = self._queue.add(job)
        with suppress(RuntimeError):  # stopped in between: then the queue has told the ticket
            self._pool.submit(self._prepare, waiting, job.question)
        return waiting.ticket

    def stop(self, within_s: float) -> None:
        """Refuse new jobs, finish those that were accepted, and after `within_s` seconds end the rest (StoppingError).

        Blocks until the graphs stand still: a step or prefill that has begun is waited for. May be called again.
        """
        self._queue.stop()
        self._worker.join(within_s)
        self._queue.stop(cut=True)
        self._worker.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, waiting: WaitingJob, question: GenerationInput) -> None:
        if waiting not in self._queue:
            return
        clock, asked, plan = Clock(settle=self._settle), waiting.settings, self._model.manifest.plan
        try:
            if asked.grammar is not None:
                # Here rather than between two tokens of others: the first takes a second, one that is refused its time.
                self._model.grammars.matcher(asked.grammar)
            prepared = self._model.prepare(question, clock)
            # Refused before it waits: what is longer than the buffers would hold memory for all its pixels until then.
            policy = asked.length or plan.length
            asked.asked.lengths(plan, prepared.text, prepared.visual, policy, self._model.capacity)
        except Exception as error:
            self._queue.leave(waiting.ticket, error, outcome_of(error))
        else:
            self._queue.prepared(waiting, ReadyPrompt(prepared, clock, monotonic()))

    def _settle(self) -> None:
        """Preparation is the host's work alone, and must not wait for graphs that another job runs."""
        if threading.current_thread() is self._worker:
            self._model.backend.synchronize()
