"""A runner in a process of its own, spoken to in lines of JSON: see `bench/protocol.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from fastv_runtime.bench.protocol import Hello, Measurement, RefusalMessage, Refused, Request, known_stages
from fastv_runtime.strict_json import said

Reply = TypeVar("Reply", Hello, Measurement)
GREETING: TypeAdapter[Hello | RefusalMessage] = TypeAdapter(Hello | RefusalMessage)
ANSWER: TypeAdapter[Measurement | RefusalMessage] = TypeAdapter(Measurement | RefusalMessage)


LEASH = (
    "import ctypes, os, signal, sys; "
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL); "  # PR_SET_PDEATHSIG, which holds over exec
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); "  # the parent may have ended before that
    "os.execvp(sys.argv[2], sys.argv[2:])"
)
"""What becomes `command` in the process that is started: the kernel ends it when the benchmark's process ends."""


class Child:
    """Starts `command` and waits for its greeting; raises Refused if there is none.

    The process is in a session of its own: an interrupt at the keyboard ends the benchmark, which then ends it. One
    that is killed has no time for that, and a runner that loads or measures does not see its input end: it is killed
    as well (prctl(2), PR_SET_PDEATHSIG).
    """

    def __init__(self, command: Sequence[str], name: str | None = None):
        if shutil.which(command[0]) is None:
            raise Refused(f"{command[0]} cannot be started: No such file, or none that can be executed")
        leash = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid())] if sys.platform == "linux" else []
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                [*leash, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise Refused(f"{command[0]} cannot be started: {error.strerror}") from None
        try:
            hello = self._read(GREETING)
        except BaseException:
            self.close()
            raise
        self.name = hello.name if name is None else name
        self.settings = hello.settings
        self.base_memory = hello.base_memory

    def run(self, request: Request) -> Measurement:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.model_dump_json() + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Refused(self._ended()) from None
        return known_stages(self._read(ANSWER))

    def close(self) -> None:
        """End the process: by the end of its input, and by force if it is deaf to that."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # where it has ended by itself
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def _read(self, expected: TypeAdapter[Reply | RefusalMessage]) -> Reply:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Refused(self._ended())
        try:
            reply = expected.validate_json(line)
        except ValidationError as error:
            raise Refused(f"its reply breaks the contract: {said(error)}: {line.strip()[:80]}") from None
        if isinstance(reply, RefusalMessage):
            raise Refused(reply.refused)
        return reply

    def _ended(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended with code {code}" + (f": {said[-1]}" if said else "")
