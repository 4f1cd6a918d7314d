"""What the commands have in common as they read their arguments: one parser, and the types of what it takes.

What cannot be used ends in one line that names the option, the value and what is allowed, with exit code 2, before
anything is opened. Imports nothing heavy: `--help` waits for no model.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from fastv_runtime import limits
from fastv_runtime.console import one_line

SHOWN = 60
"""Characters of a value that a message repeats."""
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes, as Linux has them."""
WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
CUT = re.compile(r"(?P<layer>[^:+,\s]+):(?P<keep>[^:+,\s]+)(?::(?P<ranker>[^:,\s]+))?")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


class Parser(argparse.ArgumentParser):
    """argparse's, but an error is one line, a flag is written out, and what stands for one value is given once."""

    def __init__(self, prog: str, description: str | None = None, **options: Any):
        super().__init__(prog=prog, description=description, allow_abbrev=False, exit_on_error=False, **options)
        self._given: set[str] = set()
        for name in (None, "store"):
            self.register("action", name, _Once)
        self.register("action", "store_true", _OnceTrue)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words: Sequence[str] = sys.argv[1:] if args is None else args
        self._given.clear()
        for word in words:
            self._check_word(word)
        try:
            return super().parse_known_args(words, namespace)
        except argparse.ArgumentError as error:
            if error.argument_name is None:
                self.error(error.message)
            flag = error.argument_name.rpartition("/")[2]
            self._refuse(f"{flag}{' ' if ': must' in error.message else ': '}{error.message}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, others = self.parse_known_args(args, namespace)
        if others:
            self.error(f"unrecognized arguments: {' '.join(map(shown, others))}")
        return found

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse's ignores what cannot be written; of standard output that is an OSError."""
        if file is not None and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """What argparse calls where no option is at fault: somebody does not know which there are."""
        self._refuse(f"{message} (see {self.prog} --help)")

    def _refuse(self, message: str) -> NoReturn:
        self.exit(2, one_line(f"{self.prog}: {message}") + "\n")

    def first_time(self, action: argparse.Action, flag: str | None) -> None:
        """ArgumentError for an option that has been given before."""
        if flag is None:
            return
        if action.dest in self._given:
            raise argparse.ArgumentError(action, "given twice: leave one out")
        self._given.add(action.dest)

    def _check_word(self, word: str) -> None:
        """Refuse what no file name or prompt can hold."""
        if not _is_utf8(word):
            self._refuse(
                f"{shown(word)}: must be UTF-8: rename the file, or set a locale of UTF-8 such as LC_ALL=C.UTF-8"
            )
        if "\0" in word:
            self._refuse(f"{shown(word)}: must have no NUL in it")
        if re.fullmatch(r"(?:--[\w-]+=|-\w=?)--", word):  # which Python before 3.13 fails on
            self._refuse(f"{word}: must be another value than --")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            *most, last = map(str, action.choices)
            known = f"{', '.join(most)} or {last}" if most else last
            raise argparse.ArgumentError(action, f"{shown(str(value))}: must be {known}")


class _Once(argparse._StoreAction):
    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        parser.first_time(self, option_string)
        super().__call__(parser, namespace, values, option_string)


class _OnceTrue(argparse._StoreTrueAction):
    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        parser.first_time(self, option_string)
        super().__call__(parser, namespace, values, option_string)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Type of a whole number within bounds."""

    def read(value: str) -> int:
        number = int(value) if WHOLE.fullmatch(value) else None
        if number is None or not least <= number <= most:
            raise refused(value, f"a whole number, {least:,} to {most:,}")
        return number

    return read


def number(allowed: str, allows: Callable[[float], bool]) -> Callable[[str], float]:
    """Type of a number; `allowed` completes "must be ..."."""

    def read(value: str) -> float:
        found = float(value) if NUMBER.fullmatch(value) else None
        if found is None or not allows(found):
            raise refused(value, allowed)
        return found

    return read


def between(least: float, most: float) -> Callable[[str], float]:
    """Type of a number within bounds."""
    return number(f"a number, {least:,} to {most:,}", lambda found: least <= found <= most)


share = number("above 0 and at most 1", lambda found: 0 < found <= 1)
part = number("above 0 and below 1", lambda found: 0 < found < 1)


def keep(value: str) -> float | Literal["auto"]:
    """Type of a fraction of visual tokens, or of the word that leaves it to their scores."""
    if value == "auto":
        return "auto"
    try:
        return share(value)
    except argparse.ArgumentTypeError:
        raise refused(value, "above 0 and at most 1, or auto") from None


def cut(value: str) -> tuple[int, float] | tuple[int, float, str]:
    """Type of LAYER:KEEP or LAYER:KEEP:RANKER."""
    found = CUT.fullmatch(value)
    if found is None:
        raise refused(value, "LAYER:KEEP, as 7:0.33, or LAYER:KEEP:RANKER")
    try:
        layer, keep = whole(1, limits.LAYERS)(found["layer"]), share(found["keep"])
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{shown(value)}: {error}") from None
    return (layer, keep) if found["ranker"] is None else (layer, keep, found["ranker"])


def text(value: str) -> str:
    """What people write: not empty."""
    if not value.strip():
        raise argparse.ArgumentTypeError(f"{shown(value)}: must not be empty")
    return value


def path(value: str) -> str:
    """Where something is, or is to be."""
    if not value:
        raise argparse.ArgumentTypeError(f"{shown(value)}: must not be empty")
    data = value.encode(errors="surrogateescape")
    if len(data) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in data.split(b"/")):
        raise argparse.ArgumentTypeError(
            f"{shown(value)}: must be at most {LONGEST_PATH} bytes, and each name in it {LONGEST_NAME}"
        )
    return value


def source(value: str) -> str:
    """Where an image comes from: a path, - or an address, which may be an image itself and as long as one."""
    return value if re.match(r"(?:https?|data):", value, re.IGNORECASE) else path(value)


def file(value: str) -> Path:
    """As `path`."""
    return Path(path(value))


def refused(value: str, allowed: str) -> argparse.ArgumentTypeError:
    """Error of a type; the parser puts the flag before it."""
    return argparse.ArgumentTypeError(f"{shown(value)}: must be {allowed}")


def shown(value: str) -> str:
    """A value as messages repeat it: short, and there even where it is empty."""
    whole = value if value.strip() else f"'{value}'"
    return whole if len(whole) <= SHOWN else f"{whole[: SHOWN - 3]}..."


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
