"""A job's end of the line: what is told of it, from the thread of the graphs to an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable

from fastv_runtime.serving.scheduler.jobs import Event, Failed, Finished


class Ticket:
    """One submitted job.

    Events are kept until they are read; there are never more than the answer has tokens, and three. A reader that is
    slow, or that never reads, holds nobody up.
    """

    def __init__(self, on_cancel: Callable[[Ticket], None]):
        self._on_cancel = on_cancel
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._wake: Callable[[], object] | None = None
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """End the job: one that waits leaves the queue at once, one that runs frees its slot within one token.

        From any thread, any number of times; nothing happens to a job that has ended.
        """
        self._cancelled = True
        self._on_cancel(self)

    async def events(self) -> AsyncIterator[Event]:
        """What happens to the job: Started, TextPiece for each token, then Finished; or Failed, at any point.

        To be read once, in any event loop. A reader that leaves early, or is cancelled, cancels the job.
        """
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            if self._wake is not None:
                raise RuntimeError("the events of this ticket are being read already")
            self._wake = lambda: loop.call_soon_threadsafe(arrived.set)
        try:
            while True:
                arrived.clear()
                while self._events:  # looked at after the clear: what comes later sets `arrived` again
                    event = self._events.popleft()
                    yield event
                    if isinstance(event, (Finished, Failed)):
                        return
                await arrived.wait()
        finally:
            self.cancel()

    def tell(self, event: Event) -> None:
        """Of the scheduler: put an event where the reader finds it. Never waits."""
        with self._lock:
            self._events.append(event)
            wake = self._wake
        if wake is not None:
            try:
                wake()
            except RuntimeError:  # the reader's event loop was closed: nobody will ever read this
                self.cancel()
