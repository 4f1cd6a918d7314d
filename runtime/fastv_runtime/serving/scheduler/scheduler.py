"""The scheduler: a bounded queue before a few slots, and the thread that runs the graphs for all of them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.arguments import whole_number
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.model import Model
from fastv_runtime.generation.slot import Slot
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler.conversations import Conversations
from fastv_runtime.serving.scheduler.jobs import (
    DeadlineError,
    Event,
    Failed,
    Finished,
    Job,
    JobCancelledError,
    QueueFullError,
    Started,
    StoppingError,
    TextPiece,
)
from fastv_runtime.serving.scheduler.places import Place, Running, take_place
from fastv_runtime.serving.scheduler.ticket import Ticket
from fastv_runtime.serving.scheduler.waiting import ReadyPrompt, WaitingJob

CACHE_BYTES = 256 * 2**20
"""Of conversations that have no slot, by default."""
PREPARING = 2
"""Threads that make questions ready."""
MEASURED = 32
"""Jobs of which the mean service time is taken, the latest ones."""
STOPPING = "the server is stopping: ask another one, or again later"
FAILED = "the server has failed, and must be started again"
LOGGER = logging.getLogger("fastv_runtime.serving")


class Scheduler:
    """Runs jobs on a model, as many at a time as there are slots, one token of each in turn.

    slots: each has buffers of its own, as large as a pipeline's.
    waiting: jobs beyond those that run; `submit` refuses more.
    cache_bytes: of conversations that have lost their slot, at most; 0 keeps none.
    Raises UserError for numbers that cannot be used, and where the buffers do not fit into memory.
    """

    def __init__(
        self, model: Model, *, slots: int = 1, waiting: int = 16, cache_bytes: int = CACHE_BYTES, metrics: Metrics
    ):
        whole_number("slots", slots, 1)
        self._most_waiting = whole_number("waiting", waiting, 0)
        self._conversations = Conversations(whole_number("cache_bytes", cache_bytes, 0))
        self._model, self._metrics = model, metrics
        self._places = [Place(Slot(model)) for _ in range(slots)]
        self._change = threading.Condition()
        """Holds what the callers' threads and the worker share: the three below, and `_stopping` and `_cut`."""
        self._line: dict[Ticket, WaitingJob] = {}
        self._running = 0
        self._service_s: deque[float] = deque(maxlen=MEASURED)
        self._stopping = False
        self._cut = False
        self._admissions = 0
        self._pool = ThreadPoolExecutor(PREPARING, "fastv-prepare")
        self._worker = threading.Thread(target=self._work, name="fastv-graphs", daemon=True)
        self._worker.start()

    @property
    def metrics(self) -> Metrics:
        """What is counted here."""
        return self._metrics

    @property
    def running(self) -> int:
        """Jobs that have a slot."""
        return self._running

    @property
    def waiting(self) -> int:
        """Jobs that were accepted and have none yet."""
        return len(self._line)

    @property
    def ready(self) -> bool:
        """Whether jobs are taken: not while stopping, nor if the thread of the graphs has died."""
        return self._worker.is_alive() and not self._stopping

    def submit(self, job: Job) -> Ticket:
        """Take a job. Returns at once, from any thread; raises QueueFullError or StoppingError."""
        now = monotonic()
        with self._change:
            if not self.ready:
                self._metrics.ended("refused")
                raise StoppingError(STOPPING)
            if self._running + len(self._line) >= len(self._places) + self._most_waiting:
                self._metrics.ended("refused")
                raise QueueFullError(self._retry_after_s())
            ticket = Ticket(self._withdraw)
            deadline = None if job.deadline_s is None else now + job.deadline_s
            waiting = WaitingJob(ticket, job.question, job.settings, now, deadline)
            self._line[ticket] = waiting
            self._count()
            self._pool.submit(self._prepare, waiting)
            self._change.notify_all()  # its deadline may be the next one
        return ticket

    def stop(self, within_s: float) -> None:
        """Refuse new jobs, finish those that were accepted, and after `within_s` seconds end the rest (StoppingError).

        Blocks until the graphs stand still: a step or prefill that has begun is waited for. May be called again.
        """
        with self._change:
            self._stopping = True
            self._change.notify_all()
        self._worker.join(within_s)
        with self._change:
            self._cut = True
            self._change.notify_all()
        self._worker.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # In the callers' threads and those of the pool.

    def _retry_after_s(self) -> float:
        mean = sum(self._service_s) / len(self._service_s) if self._service_s else 0.0
        return max(1.0, mean * max(1, len(self._line)) / len(self._places))

    def _prepare(self, waiting: WaitingJob) -> None:
        if waiting.ticket not in self._line:
            return
        clock = Clock(settle=self._settle)
        try:
            prepared = self._model.prepare(waiting.question, clock)
        except Exception as error:
            self._leave_line(waiting.ticket, error, _outcome(error))
            return
        with self._change:
            waiting.ready = ReadyPrompt(prepared, clock, monotonic())
            self._change.notify_all()

    def _settle(self) -> None:
        """Preparation is the host's work alone, and must not wait for graphs that another job runs."""
        if threading.current_thread() is self._worker:
            self._model.backend.synchronize()

    def _withdraw(self, ticket: Ticket) -> None:
        """The ticket was cancelled. A job that runs is ended before the next round."""
        self._leave_line(ticket, JobCancelledError("the request was cancelled before it had started"), "cancelled")

    def _leave_line(self, ticket: Ticket, error: Exception, outcome: str) -> None:
        """End a job that waits; nothing where it does not, or no longer."""
        with self._change:
            if self._line.pop(ticket, None) is None:
                return
            self._count()
            self._change.notify_all()  # the last one of a scheduler that stops
        self._metrics.ended(outcome)
        ticket.tell(Failed(error))

    def _count(self) -> None:
        self._metrics.occupied(self._running, len(self._line))

    # In the worker's thread.

    def _work(self) -> None:
        try:
            while self._has_work():
                self._end_what_is_over()
                self._admit()
                for place in self._places:
                    if place.running is not None and not self._cut:
                        self._advance(place, place.running)
            self._abandon(STOPPING)
        except BaseException:
            LOGGER.exception("the thread that runs the graphs has died")
            self._abandon(FAILED)

    def _has_work(self) -> bool:
        """Wait until there is something to do; False where nothing ever will be."""
        with self._change:
            while not self._cut:
                now = monotonic()
                if self._running or any(job.ready or job.overdue(now) for job in self._line.values()):
                    return True
                if self._stopping and not self._line:
                    return False
                deadlines = [job.deadline for job in self._line.values() if job.deadline is not None]
                self._change.wait(min(deadlines) - now if deadlines else None)
        return False

    def _end_what_is_over(self) -> None:
        """Jobs that were cancelled, or whose deadline has passed."""
        now = monotonic()
        with self._change:
            overdue = [job.ticket for job in self._line.values() if job.overdue(now)]
        for ticket in overdue:
            self._leave_line(ticket, DeadlineError("the deadline passed while the request waited"), "deadline")
        for place in self._places:
            running = place.running
            if running is None:
                continue
            if running.ticket.cancelled:
                self._finish(place, running, "cancelled")
            elif running.deadline is not None and now >= running.deadline:
                self._finish(place, running, "deadline")

    def _admit(self) -> None:
        """Give a free place to the first job that is ready: one job, so that answers wait for one prefill at most."""
        free = [place for place in self._places if place.running is None]
        with self._change:
            job = next((job for job in self._line.values() if job.ready is not None), None) if free else None
            if job is None:
                return
            del self._line[job.ticket]
            self._running += 1
            self._admissions += 1
            self._count()
        started = monotonic()
        try:
            self._start(job, free, started)
        except BaseException as error:
            self._end(job.ticket, started, Failed(_reported(error)), _outcome(error))
            if not isinstance(error, Exception):
                raise

    def _start(self, job: WaitingJob, free: Sequence[Place], now: float) -> None:
        """Read a job's prompt. What is raised here ends the job; the place stays free."""
        assert job.ready is not None
        prepared, clock = job.ready.prepared, job.ready.clock
        clock.leave_out(now - job.ready.finished)
        place = take_place(free, prepared, self._conversations)
        place.used, place.prompt = self._admissions, 0
        loop = place.slot.start(prepared, replace(job.settings, reuse=True), clock)
        place.prompt = prepared.length
        answer, features = loop.answer, self._model.features
        self._metrics.started(answer, clock.timings(), now - job.submitted)
        self._metrics.looked_up(features.hits, features.misses)
        job.ticket.tell(Started(answer.model_copy(deep=True), tuple(prepared.shown), answer.reused_tokens))
        place.running = Running(job.ticket, loop, job.submitted, now, job.deadline)

    def _advance(self, place: Place, running: Running) -> None:
        """One step of a job. What is raised here ends the job, and frees its place."""
        answer = running.loop.answer
        before = len(answer.token_ids)
        try:
            text = running.loop.advance()
        except Exception as error:
            place.running, place.prompt = None, 0
            self._end(running.ticket, running.started, Failed(error), "failed")
            return
        now, made = monotonic(), answer.token_ids[before:]
        if running.last_token is None:
            self._metrics.first_tokens(len(made), now - running.submitted)
        else:
            self._metrics.more_tokens(len(made), now - running.last_token)
        running.last_token = now
        running.ticket.tell(TextPiece(text, tuple(made)))
        if answer.finish_reason:
            self._finish(place, running, answer.finish_reason)

    def _finish(self, place: Place, running: Running, reason: str) -> None:
        """End a job with the answer as far as it came."""
        answer = running.loop.answer
        answer.finish_reason = reason
        answer.timings_ms = running.loop.clock.timings()
        place.running = None
        self._end(running.ticket, running.started, Finished(answer), reason)

    def _end(self, ticket: Ticket, started: float, event: Event, outcome: str) -> None:
        """A job that had been given a place has none any more."""
        with self._change:
            self._running -= 1
            self._service_s.append(monotonic() - started)
            self._count()
        self._metrics.ended(outcome)
        ticket.tell(event)

    def _abandon(self, why: str) -> None:
        """End all that is left: the worker does nothing more."""
        with self._change:
            self._stopping = True
            left = list(self._line)
        for ticket in left:
            self._leave_line(ticket, StoppingError(why), "failed")
        for place in self._places:
            running, place.running = place.running, None
            if running is not None:
                self._end(running.ticket, running.started, Failed(StoppingError(why)), "failed")


def _reported(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else StoppingError(FAILED)


def _outcome(error: BaseException) -> str:
    """Before the first token: what cannot be used is refused, whoever finds out."""
    return "refused" if isinstance(error, UserError) else "failed"
