"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """Input that cannot be used: one line saying what is wrong, where, and what to do.

    Commands print it without a traceback and exit with code 2.
    An option has its Python name in backticks, `max_text`; commands print its flag instead (`console.with_flags`).
    One of another command, such as an export's in a message of the runtime, has its bare name.
    """


def missing_extra(package: str, extra: str) -> UserError:
    """Error for an optional dependency that is not installed, with the command that installs it."""
    return UserError(f"{package} is not installed: pip install 'fastv-edge[{extra}]'")
