"""uvicorn, which listens, and stops in an order that lets answers in progress end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from fastv_runtime.serving.scheduler import Scheduler
from fastv_runtime.signals import STOPS, handlers_kept

FLUSH_S = 5
"""For the ends of responses to arrive, once all answers are made."""
BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Of a connection without a request. uvicorn's own 5 s are also when httpx, and with it OpenAI's client, drops one:
whoever asks again just then would write to a connection that is being closed."""


def serve(
    app: FastAPI, scheduler: Scheduler, listening: socket.socket, *, grace_s: float, started: Callable[[], None]
) -> None:
    """Serve at a bound socket until SIGINT, SIGTERM or SIGHUP, then return: being told to stop is no failure.

    New requests are refused from then on; those in progress have `grace_s` to end, unless there is a second signal.
    started: called once connections are taken.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        backlog=BACKLOG,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(grace_s) + FLUSH_S,
    )
    _Server(config, scheduler, grace_s, started).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, scheduler: Scheduler, grace_s: float, started: Callable[[], None]):
        super().__init__(config)
        self._scheduler = scheduler
        self._grace_s = grace_s
        self._announce = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Beside uvicorn's, which waits for responses, and those wait for the scheduler.
        stopped = asyncio.create_task(asyncio.to_thread(self._scheduler.stop, self._grace_s))
        await super().shutdown(sockets)
        if self.force_exit:
            await asyncio.to_thread(self._scheduler.stop, 0)
        await stopped

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's raises the signals once more at the end, for whoever runs it to fail by."""
        with handlers_kept():
            for each in STOPS:
                if signal.getsignal(each) is not signal.SIG_IGN:
                    signal.signal(each, self.handle_exit)
            yield
