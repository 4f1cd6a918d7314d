"""Places for jobs: slots, what runs in each, and which free one a prompt is given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.model import PreparedPrompt
from fastv_runtime.generation.slot import Slot
from fastv_runtime.serving.scheduler.conversations import Conversations
from fastv_runtime.serving.scheduler.ticket import Ticket

LOGGER = logging.getLogger("fastv_runtime.serving")


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
    """A slot, what runs in it, and what it was used for at last."""

    slot: Slot
    running: Running | None = None
    used: int = 0
    """Which admission it was given at last, counted by the scheduler: the smallest is the least recently used."""
    prompt: int = 0
    """Tokens of the prompt that it read at last; 0 where it holds no conversation."""


def take_place(free: Sequence[Place], prepared: PreparedPrompt, conversations: Conversations) -> Place:
    """The free place for a prompt.

    It is the place that has the most in common with the prompt, where that is worthwhile, otherwise the least recently
    used one. A conversation without a place that has more in common is restored to the least recently used place. What
    a place held is kept, unless the prompt continues it.
    """
    order = sorted(free, key=lambda place: (place.prompt > 0, place.used))
    common = {place: _worthwhile(place.slot.common(prepared), place.prompt, prepared) for place in order}
    place = max(order, key=lambda each: common[each])  # the first of equals
    kept, more = conversations.best(prepared)
    if kept is None or _worthwhile(more, kept.prompt, prepared) <= common[place]:
        if place.slot.common(prepared) < place.prompt:
            _keep(place, conversations)
        return place
    place = order[0]
    conversations.used(kept, more)
    _keep(place, conversations)
    place.prompt = 0  # until the new prompt was read
    place.slot.restore(kept.saved)
    return place


def _worthwhile(common: int, held: int, prepared: PreparedPrompt) -> int:
    """The tokens in common, if they are half of the prompt or of what is held, whichever is shorter; otherwise 0.

    Nearly all prompts begin alike (a system message, the template's first words): for so little no conversation should
    lose its place, or be copied.
    """
    return common if 2 * common >= min(held, prepared.length) else 0


def _keep(place: Place, conversations: Conversations) -> None:
    """Keep what a place holds, where there is anything. Without memory for it the conversation is read anew one day."""
    if not place.prompt or conversations.off:
        return
    try:
        saved = place.slot.save()
        if saved is not None:
            conversations.keep(saved, place.prompt)
    except (MemoryError, UserError):
        LOGGER.warning("no memory to keep a conversation: its next turn reads all of it again")
