"""What the thread of the graphs does: rounds of a token for each running job, and a prompt in between."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from fastv_runtime.generation.model import Model
from fastv_runtime.generation.slot import Slot
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler.conversations import Conversations
from fastv_runtime.serving.scheduler.jobs import Event, Failed, Finished, Started, StoppingError, TextPiece
from fastv_runtime.serving.scheduler.places import Place, Running, take_place
from fastv_runtime.serving.scheduler.queue import STOPPING, JobQueue, WaitingJob, outcome_of
from fastv_runtime.serving.scheduler.ticket import Ticket

FAILED = "the server has failed, and must be started again"
LOGGER = logging.getLogger("fastv_runtime.serving")


class GraphWorker:
    """Runs the jobs of a queue on a model. But for making it, all is to be called in one thread."""

    def __init__(self, model: Model, queue: JobQueue, metrics: Metrics, conversations: Conversations, *, slots: int):
        self._model, self._queue, self._metrics = model, queue, metrics
        self._places = [Place(Slot(model)) for _ in range(slots)]
        self._conversations = conversations
        self._admissions = 0

    def run(self) -> None:
        """Until the queue is stopped and what was accepted is finished, or cut."""
        try:
            while self._queue.wait_for_work():
                self._end_what_is_over()
                self._admit()
                for place in self._places:
                    if place.running is not None and not self._queue.cut:
                        self._advance(place, place.running)
            self._abandon(STOPPING)
        except BaseException:
            LOGGER.exception("the thread that runs the graphs has died")
            self._abandon(FAILED)

    def _end_what_is_over(self) -> None:
        """Jobs that were cancelled, or whose deadline has passed."""
        self._queue.end_overdue()
        now = monotonic()
        for place in self._places:
            running = place.running
            if running is None:
                continue
            if running.ticket.cancelled:
                running.loop.cut("cancelled")
            elif running.deadline is not None and now >= running.deadline:
                running.loop.cut("deadline")
            if running.loop.answer.finish_reason:
                self._finish(place, running)

    def _admit(self) -> None:
        """Give a free place to the first job that is ready: one job, so that answers wait for one prefill at most."""
        free = [place for place in self._places if place.running is None]
        job = self._queue.take() if free else None
        if job is None:
            return
        started = monotonic()
        try:
            self._start(job, free, started)
        except BaseException as error:
            reported = error if isinstance(error, Exception) else StoppingError(FAILED)
            self._end(job.ticket, started, Failed(reported), outcome_of(error))
            if not isinstance(error, Exception):
                raise

    def _start(self, job: WaitingJob, free: Sequence[Place], now: float) -> None:
        """Read a job's prompt. What is raised here ends the job; the place stays free."""
        assert job.ready is not None
        prepared, clock = job.ready.prepared, job.ready.clock
        clock.leave_out(now - job.ready.finished)
        self._admissions += 1
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
            self._finish(place, running)

    def _finish(self, place: Place, running: Running) -> None:
        """The answer is there, as far as it came."""
        answer = running.loop.answer
        answer.timings_ms = running.loop.clock.timings()
        place.running = None
        self._end(running.ticket, running.started, Finished(answer), answer.finish_reason)

    def _end(self, ticket: Ticket, started: float, event: Event, outcome: str) -> None:
        """A job that had been given a place has none any more."""
        self._queue.ended(started)
        self._metrics.ended(outcome)
        ticket.tell(event)

    def _abandon(self, why: str) -> None:
        """End all that is left: nothing more is run."""
        self._queue.abandon(why)
        for place in self._places:
            running, place.running = place.running, None
            if running is not None:
                self._end(running.ticket, running.started, Failed(StoppingError(why)), "failed")
