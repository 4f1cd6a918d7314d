"""What every command shares: where it prints, and how it fails."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from fastv_runtime import hf
from fastv_runtime.config.bundle import Bundle, read_manifest
from fastv_runtime.errors import UserError
from fastv_runtime.versions import __version__, untested

stderr = Console(stderr=True)
"""People read this one; stdout belongs to answers and to --json."""

Extras = Callable[[argparse.Namespace], Sequence[str]]


def no_extras(_: argparse.Namespace) -> Sequence[str]:
    return ()


def export_extras(_: argparse.Namespace) -> Sequence[str]:
    return ("export",)


def command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
    extras: Extras = no_extras,
) -> None:
    """Parse, run, and exit: 0 when done, 2 with one line for bad input, 1 with one line for a failure.

    `extras` says, of the parsed arguments, which extras of fastv-edge the command uses: the versions of what these
    and everyone need are checked first.
    """
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_debug(parser)
    guarded(parser, run, parser.parse_args(argv), extras)


def add_debug(parser: argparse.ArgumentParser) -> None:
    """The flag that `guarded` reads."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def guarded(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    args: argparse.Namespace,
    extras: Extras = no_extras,
) -> None:
    """Run the arguments that `parser` parsed, and exit as `command` does."""
    program = parser.prog
    try:
        newer = untested(extras(args))
        if newer is not None:
            print(f"{program}: warning: {newer}", file=sys.stderr)
        if not args.debug:
            _silence_libraries()
        run(args)
    except UserError as error:
        if args.debug:
            raise
        _fail(program, with_flags(str(error), parser), 2)
    except KeyboardInterrupt:
        _fail(program, "interrupted", 130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if args.debug:
            raise
        _fail(program, f"{type(error).__name__}: {error} (run with --debug for the traceback)", 1)


def with_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """A message for whoever typed the command: `max_text` in backticks becomes --max-text.

    Libraries name an option as Python has it, in backticks, and know of no flags. A name becomes the first long flag of
    the option of `parser` that has it as its `dest`, or the short one if that is all there is. Other names in backticks
    stay as they are, and so does what follows: "`precision` fp32" is "--precision fp32".
    """
    flags = {
        action.dest: next((flag for flag in action.option_strings if flag.startswith("--")), action.option_strings[0])
        for action in parser._actions
        if action.option_strings
    }
    return re.sub(r"`(\w+)`", lambda name: flags.get(name[1], name[0]), message)


def add_trust_arguments(parser: argparse.ArgumentParser) -> None:
    """--check-hashes and --public-key, which `open_bundle` takes."""
    parser.add_argument(
        "--check-hashes",
        action="store_true",
        help="hash every file of a bundle (default: those that changed since they were hashed)",
    )
    parser.add_argument(
        "--public-key",
        metavar="FILE|KEY",
        help="refuse a bundle that is not signed by this minisign key; hashes every file",
    )


def open_bundle(path: str, *, check_hashes: bool = False, public_key: str | None = None) -> Bundle:
    """Open a bundle; hashing gigabytes takes a while, so it shows. Arguments as for `Bundle.open`."""
    total = sum(digest.size for digest in read_manifest(path, public_key=public_key).files.values())
    columns = (TextColumn("checking {task.fields[name]}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, console=stderr, transient=True) as bars:
        task = bars.add_task("", total=total, name=path)
        return Bundle.open(
            path,
            check_hashes=check_hashes,
            public_key=public_key,
            progress=lambda count: bars.advance(task, count),
        )


def _fail(program: str, message: str, code: int) -> None:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _silence_libraries() -> None:
    hf.silence()
    warnings.simplefilter("ignore")
