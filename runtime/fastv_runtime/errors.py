"""Exceptions that are meant for whoever calls: at the keyboard, or in a program that shares a pipeline."""

from __future__ import annotations


class UserError(Exception):
    """Input that cannot be used: one line saying what is wrong, where, and what to do.

    Commands print it without a traceback and exit with code 2.
    An option has its Python name in backticks, `max_text`; commands print its flag instead (`console.with_flags`).
    One of another command, such as an export's in a message of the runtime, has its bare name.
    """


class PipelineBusyError(RuntimeError):
    """A generation was asked for while another thread is still reading a stream of the same pipeline.

    Nothing is wrong with what was asked: ask again once that stream has ended, or of another pipeline.
    """


class PipelineEndedError(RuntimeError):
    """Something was used after its end: a stream after another was started, a pipeline after `close` or in a fork."""


def missing_extra(package: str, extra: str) -> UserError:
    """Error for an optional dependency that is not installed, with the command that installs it."""
    return UserError(f"{package} is not installed: pip install 'fastv-edge[{extra}]'")
