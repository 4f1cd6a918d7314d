"""Being told to end: SIGTERM and SIGHUP as Ctrl-C, so that whatever is unwound for one is unwound for all."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 2.0
"""Seconds after a signal in which others are taken for the same: a terminal that is closed sends several."""


@dataclass
class Stop:
    """What told this process to end, if anything did."""

    signum: int = signal.SIGINT

    @property
    def reason(self) -> str:
        return "interrupted" if self.signum == signal.SIGINT else f"ended by {signal.Signals(self.signum).name}"

    @property
    def code(self) -> int:
        """The exit code, as shells have it: 130, 143, 129."""
        return 128 + self.signum


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within this context SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does; yields which it was.

    One that is ignored stays ignored: nohup ignores SIGHUP, and a shell its background jobs' SIGINT. Outside the main
    thread, which alone may say so, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    last = -GRACE

    def handle(signum: int, _: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < GRACE:
            return
        last, stop.signum = now, signum
        raise KeyboardInterrupt

    with handlers_kept():
        for signum in STOPS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, handle)
        yield stop


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Within this context others may handle signals; what handled them before does so again when it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in STOPS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if handler is not None:  # one that is not Python's
                signal.signal(signum, handler)
