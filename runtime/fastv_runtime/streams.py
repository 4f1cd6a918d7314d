"""Standard streams that are closed, full or gone: one line about it, never a traceback, never another file's damage."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from fastv_runtime.errors import UserError
from fastv_runtime.files import cannot_write


def reserve_streams() -> None:
    """Keep the numbers of closed standard streams from files that are opened next, which would get what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    if sys.stderr is None:  # Python would print to standard output what is for this one
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def require_stdin() -> None:
    """UserError where standard input is closed, for who is about to read it."""
    if sys.stdin is None:
        raise UserError("standard input is closed: there is nothing to read from it: give a file")


def require_stdout() -> None:
    """UserError where standard output is closed, for who is about to print there what has taken long."""
    if sys.stdout is None:
        raise UserError("standard output is closed: there is nowhere to print to")


def flush_stdout() -> None:
    """Write out what was printed. UserError where that cannot be; BrokenPipeError where nobody reads any more."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise cannot_write("standard output", error) from None


def stdout_refuses() -> bool:
    """Whether standard output takes nothing, not even the end of a line: where it has no buffer, that is all to see."""
    if sys.stdout is None:
        return False
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except ValueError:  # one that has no descriptor
        return False
    except OSError:
        return True
    return False


def drop_stdout() -> None:
    """Let what was printed and cannot be written go: Python would complain once more when it exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str) -> None:
    """A line on standard error, if it can be written at all."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
