"""What is asked of the scheduler, what it tells of each job, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.calls.settings import Settings
from fastv_runtime.preprocessing import Visual


@dataclass(frozen=True)
class Job:
    """What one request asks."""

    question: GenerationInput
    settings: Settings
    deadline_s: float | None = None
    """Seconds from submission. A job that still waits then fails (DeadlineError); one that runs ends as far as it came,
    with finish_reason `deadline`. None: no deadline."""


@dataclass(frozen=True)
class Started:
    """The prompt was read: what was kept of it is known, and the first token follows at once."""

    answer: Answer
    """A copy, without text and timings."""
    shown: tuple[Visual, ...]
    """The images and videos in the order of the prompt, as `kept_image.numbered` takes them."""
    reused_tokens: int
    """Tokens at the prompt's start whose caches an earlier turn had left."""


@dataclass(frozen=True)
class TextPiece:
    """What a token added to the answer."""

    text: str
    """Empty where a character is not whole yet."""
    token_ids: tuple[int, ...]
    """None for what was held back, at the end of an answer that is cut off."""


@dataclass(frozen=True)
class Finished:
    """The last event of a job that had started.

    `answer.finish_reason` is `stop`, `length`, `deadline`, or `cancelled` by whoever holds the ticket.
    """

    answer: Answer


@dataclass(frozen=True)
class Failed:
    """The last event of a job without an answer.

    error: a UserError for what cannot be used; DeadlineError, JobCancelledError or StoppingError for a job that was
    ended; anything else is a fault of the server.
    """

    error: Exception


Event = Started | TextPiece | Finished | Failed


class QueueFullError(RuntimeError):
    """As many jobs wait as may. `retry_after_s`: in how many seconds, at least 1, there is likely a place."""

    def __init__(self, retry_after_s: float):
        super().__init__(f"the queue is full: ask again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class StoppingError(RuntimeError):
    """The scheduler takes no more jobs, or ended one because its time to stop was over."""


class DeadlineError(RuntimeError):
    """A job's deadline passed before it had started."""


class JobCancelledError(RuntimeError):
    """A job was cancelled before it had started."""
