"""Whose turn it is: a pipeline has one set of buffers, and callers in any thread."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from fastv_runtime.errors import PipelineBusyError, PipelineEndedError


class OpenStream(Protocol):
    """A generation that a caller is still reading."""

    @property
    def is_open(self) -> bool: ...

    def end(self, why: str) -> None:
        """Whoever reads on gets a PipelineEndedError that says why."""


class Turns:
    """One generation at a time.

    A stream that was begun is known by a weak reference: one that its caller has dropped is over.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Held while the buffers are written."""
        self._stream: weakref.ref[OpenStream] | None = None
        self._owner: weakref.ref[threading.Thread] | None = None
        self._whole = False
        self._process = os.getpid()
        self.closed = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """For a new generation, once it is the caller's turn: ends the stream that the same thread had begun.

        Raises PipelineBusyError where another thread's stream is still being read, PipelineEndedError after `close`.
        """
        self._check()  # without the lock: who reads a stream takes it at every token, and would be waited for
        with self.lock:
            self._check()
            self._end("another generation was started on this pipeline: this one has ended")
            yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        """`taken` for all of a generation: nobody else sees the stream that is begun inside, they wait for its end."""
        with self.taken():
            self._whole = True
            try:
                yield
            finally:
                self._whole = False

    def begun(self, stream: OpenStream) -> None:
        """Inside `taken`: the current thread reads this stream from now on."""
        self._stream = weakref.ref(stream)
        self._owner = None if self._whole else weakref.ref(threading.current_thread())

    def close(self) -> None:
        """End the stream that is open, and refuse any other. Called with the lock held."""
        self.closed = True
        self._end("the pipeline was closed: this generation has ended")

    def check_open(self) -> None:
        """Raises PipelineEndedError after `close`, and in a process that was forked off."""
        if self.closed:
            raise PipelineEndedError("this pipeline was closed: load the bundle again")
        if os.getpid() != self._process:
            raise PipelineEndedError(
                "this pipeline was loaded in another process, whose threads a fork does not have: load the bundle here"
            )

    def _check(self) -> None:
        self.check_open()
        stream, owner = self._open(), self._owner
        if stream is not None and owner is not None and owner() is not threading.current_thread():
            raise PipelineBusyError(
                "another thread is still reading a stream of this pipeline: read it to its end, close() it, "
                "or load a second pipeline"
            )

    def _open(self) -> OpenStream | None:
        stream = None if self._stream is None else self._stream()
        return stream if stream is not None and stream.is_open else None

    def _end(self, why: str) -> None:
        stream = self._open()
        if stream is not None:
            stream.end(why)
        self._stream = self._owner = None
