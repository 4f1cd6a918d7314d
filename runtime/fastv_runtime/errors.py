"""Exceptions that are meant for whoever calls: at the keyboard, or in a program that shares a pipeline."""

from __future__ import annotations


class UserError(Exception):
    """Input that cannot be used: one line saying what is wrong, where, and what to do.

    Commands print it without a traceback and exit with code 2.
    An option has its Python name in backticks, `max_text`; commands print its flag instead (`console.with_flags`).
    One of an export, in a message of the runtime, has that before it: `export.max_text`.
    """


class PipelineBusyError(RuntimeError):
    """A generation was asked for while another thread is still reading a stream of the same pipeline.

    Nothing is wrong with what was asked: ask again once that stream has ended, or of another pipeline.
    """


class PipelineEndedError(RuntimeError):
    """Something was used after its end: a stream after another was started, a pipeline after `close` or in a fork."""


def missing_extra(package: str, extra: str) -> UserError:
    """Error for an optional dependency that is not installed, with the command that installs it."""
    return UserError(f"{package} is not installed: {install(extra)}")


def install(extra: str) -> str:
    """The command that installs an extra of fastv-edge. It is on no package index: a clone has it."""
    return f"pip install -e '.[{extra}]' in the clone of fastv-edge"
