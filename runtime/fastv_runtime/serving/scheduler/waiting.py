"""Jobs that were accepted and have no slot yet."""

from __future__ import annotations

from dataclasses import dataclass

from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.calls.settings import Settings
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.model import PreparedPrompt
from fastv_runtime.serving.scheduler.ticket import Ticket


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
    question: GenerationInput
    settings: Settings
    submitted: float
    deadline: float | None
    ready: ReadyPrompt | None = None

    def overdue(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline
