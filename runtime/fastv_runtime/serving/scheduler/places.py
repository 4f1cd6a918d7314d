"""Places for jobs: slots, what runs in each, and which free one a prompt is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.model import PreparedPrompt
from fastv_runtime.generation.slot import Slot
from fastv_runtime.serving.scheduler.ticket import Ticket


@dataclass(eq=False)
class Running:
    """A job that has a slot. Times are seconds of `time.monotonic`."""

    ticket: Ticket
    loop: TokenLoop
    submitted: float
    started: float
    deadline: float | None
    last_token: float | None = None


@dataclass(eq=False)
class Place:
    """A slot, and what runs in it."""

    slot: Slot
    running: Running | None = None
    used: int = 0
    """Which admission it was given at last, counted by the scheduler: the smallest is the least recently used."""


def choose(free: Sequence[Place], prepared: PreparedPrompt) -> tuple[Place, int]:
    """The free place whose caches hold the most of the prompt's start, and how many tokens of it.

    Among equals the least recently used one.
    """
    common = {place: common_tokens(place.slot, prepared) for place in free}
    best = max(free, key=lambda place: (common[place], -place.used))
    return best, common[best]


def common_tokens(slot: Slot, prepared: PreparedPrompt) -> int:
    """Tokens at the prompt's start whose caches a slot holds."""
    return 0
