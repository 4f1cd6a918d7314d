"""Jobs that were accepted and have no slot yet: a bounded queue that callers fill and the worker empties."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from time import monotonic

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.settings import Settings
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.model import PreparedPrompt
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler.jobs import (
    DeadlineError,
    Failed,
    Job,
    JobCancelledError,
    QueueFullError,
    StoppingError,
)
from fastv_runtime.serving.scheduler.ticket import Ticket

MEASURED = 32
"""Jobs of which the mean service time is taken, the latest ones."""
STOPPING = "the server is stopping: ask another one, or again later"


@dataclass(frozen=True)
class ReadyPrompt:
    """A question that was made ready for the graphs. finished: seconds of `time.monotonic`."""

    prepared: PreparedPrompt
    clock: Clock
    finished: float


@dataclass(eq=False)
class WaitingJob:
    """A job on its way to a slot. Times are seconds of `time.monotonic`."""

    ticket: Ticket
    settings: Settings
    submitted: float
    deadline: float | None
    ready: ReadyPrompt | None = None

    def overdue(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


class JobQueue:
    """Who waits, and how many run. slots: how many may; waiting: jobs beyond those. For any thread."""

    def __init__(self, slots: int, waiting: int, metrics: Metrics):
        self._slots, self._most_waiting = slots, waiting
        self._metrics = metrics
        self._changed = threading.Condition()
        """Holds all that is below."""
        self._waiting: dict[Ticket, WaitingJob] = {}
        self._service_s: deque[float] = deque(maxlen=MEASURED)
        self.running = 0
        """Jobs that have a slot."""
        self.stopping = False
        """Whether no more jobs are taken."""
        self.cut = False
        """Whether those that run are not to be finished either."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job: WaitingJob) -> bool:
        return job.ticket in self._waiting

    def add(self, job: Job) -> WaitingJob:
        """Raises QueueFullError or StoppingError."""
        now = monotonic()
        with self._changed:
            if self.stopping:
                self._metrics.ended("refused")
                raise StoppingError(STOPPING)
            if self.running + len(self) >= self._slots + self._most_waiting:
                self._metrics.ended("refused")
                raise QueueFullError(self._retry_after_s())
            deadline = None if job.deadline_s is None else now + job.deadline_s
            added = WaitingJob(Ticket(self._withdraw), job.settings, now, deadline)
            self._waiting[added.ticket] = added
            self._tell()  # its deadline may be the next one
        return added

    def prepared(self, job: WaitingJob, ready: ReadyPrompt) -> None:
        """A job may be given a slot from now on."""
        with self._changed:
            job.ready = ready
            self._tell()

    def leave(self, ticket: Ticket, error: Exception, outcome: str) -> None:
        """End a job that waits; nothing where it does not, or no longer."""
        with self._changed:
            if self._waiting.pop(ticket, None) is None:
                return
            self._tell()
        self._metrics.ended(outcome)
        ticket.tell(Failed(error))

    def take(self) -> WaitingJob | None:
        """The first job that is ready, which runs from now on; None where none is."""
        with self._changed:
            job = next((job for job in self._waiting.values() if job.ready is not None), None)
            if job is not None:
                del self._waiting[job.ticket]
                self.running += 1
                self._tell()
        return job

    def ended(self, started: float) -> None:
        """A job that had run since then has no slot any more."""
        with self._changed:
            self.running -= 1
            self._service_s.append(monotonic() - started)
            self._tell()

    def end_overdue(self) -> None:
        """Jobs whose deadline has passed fail."""
        now = monotonic()
        with self._changed:
            overdue = [job.ticket for job in self._waiting.values() if job.overdue(now)]
        for ticket in overdue:
            self.leave(ticket, DeadlineError("the deadline passed while the request waited"), "deadline")

    def wait_for_work(self) -> bool:
        """Wait until there is something to run or to end; False where nothing ever will be."""
        with self._changed:
            while not self.cut:
                now = monotonic()
                if self.running or any(job.ready or job.overdue(now) for job in self._waiting.values()):
                    return True
                if self.stopping and not self._waiting:
                    return False
                deadlines = [job.deadline for job in self._waiting.values() if job.deadline is not None]
                self._changed.wait(min(deadlines) - now if deadlines else None)
        return False

    def stop(self, *, cut: bool = False) -> None:
        """Take no more jobs; with `cut` those that were accepted are not finished."""
        with self._changed:
            self.stopping = True
            self.cut = self.cut or cut
            self._tell()

    def abandon(self, why: str) -> None:
        """Take no more jobs, and end all that wait (StoppingError)."""
        self.stop()
        for ticket in list(self._waiting):
            self.leave(ticket, StoppingError(why), "failed")

    def _withdraw(self, ticket: Ticket) -> None:
        """The ticket was cancelled. A job that runs is ended by the worker, before its next round."""
        self.leave(ticket, JobCancelledError("the request was cancelled before it had started"), "cancelled")

    def _retry_after_s(self) -> float:
        mean = sum(self._service_s) / len(self._service_s) if self._service_s else 0.0
        return max(1.0, mean * max(1, len(self)) / self._slots)

    def _tell(self) -> None:
        self._metrics.occupied(self.running, len(self))
        self._changed.notify_all()


def outcome_of(error: BaseException) -> str:
    """Of a job that ends before its first token: what cannot be used is refused, whoever finds out."""
    return "refused" if isinstance(error, UserError) else "failed"
