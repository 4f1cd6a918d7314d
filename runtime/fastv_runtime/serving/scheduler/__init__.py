"""Who runs when: one thread owns the graphs, and gives jobs slots, tokens in turn, and an end.

`submit` a `Job` and read the `events` of its `Ticket`.
"""

from __future__ import annotations

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
from fastv_runtime.serving.scheduler.scheduler import CACHE_BYTES, Scheduler
from fastv_runtime.serving.scheduler.ticket import Ticket

__all__ = [
    "CACHE_BYTES",
    "DeadlineError",
    "Event",
    "Failed",
    "Finished",
    "Job",
    "JobCancelledError",
    "QueueFullError",
    "Scheduler",
    "Started",
    "StoppingError",
    "TextPiece",
    "Ticket",
]
