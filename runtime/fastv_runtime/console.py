"""What every command shares: where it prints, and how it fails."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from fastv_runtime.errors import UserError
from fastv_runtime.files import DISK, NOT_OURS, cannot_write
from fastv_runtime.signals import stoppable
from fastv_runtime.streams import drop_stdout, flush_stdout, reserve_streams, say, stdout_refuses

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from fastv_runtime.config.bundle import Bundle

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

    A disk that is full or read-only counts as bad input. SIGINT, SIGTERM and SIGHUP end with one line and 130, 143 and
    129, after what was begun is put away.
    `extras` says, of the parsed arguments, which extras of fastv-edge the command uses: the versions of what these
    and everyone need are checked first.
    """
    add_common_arguments(parser)
    guarded(parser, run, parsed(parser, argv), extras)


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; exits as `command` does where they cannot be used, or a help or a version cannot be printed."""
    try:
        return parser.parse_args(argv)
    except SystemExit:
        _settle(parser.prog)
        raise
    except BrokenPipeError:
        drop_stdout()
        sys.exit(1)
    except OSError as error:  # standard output without a buffer: nothing else is written while arguments are read
        drop_stdout()
        _fail(parser.prog, str(cannot_write("standard output", error)), 2)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    add_version(parser)
    add_guard_arguments(parser)


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action=_Version, help="show the version of fastv-edge, and exit")


def add_guard_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `guarded` reads."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no notes, errors alone")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


class _Version(argparse.Action):
    """argparse's own, but the version is looked up when it is asked for: that takes as long as the rest of a parser."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str):
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from fastv_runtime.versions import __version__

        parser._print_message(f"{parser.prog} {__version__}\n", sys.stdout)
        parser.exit()


def guarded(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    args: argparse.Namespace,
    extras: Extras = no_extras,
) -> None:
    """Run the arguments that `parser` parsed, and exit as `command` does."""
    from fastv_runtime.versions import untested

    program = parser.prog
    reserve_streams()
    with stoppable() as stop:
        try:
            newer = untested(extras(args))
            if newer is not None and not args.quiet:
                say(f"{program}: warning: {newer}")
            if not args.debug:
                _silence_libraries()
            with _quietly(args.quiet):
                run(args)
            flush_stdout()
        except UserError as error:
            if args.debug:
                raise
            _fail(program, with_flags(str(error), parser), 2)
        except SystemExit:
            _settle(program)
            raise
        except KeyboardInterrupt:
            _fail(program, stop.reason, stop.code)
        except BrokenPipeError:
            # The reader of our output went away (`| head`).
            drop_stdout()
            sys.exit(1)
        except Exception as error:
            if args.debug:
                raise
            if isinstance(error, OSError) and error.errno in NOT_OURS:
                _fail(program, _about_path(error), 2)
            _fail(program, f"{type(error).__name__}: {error} (run with --debug for the traceback)", 1)


def with_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """A message for whoever typed the command: `max_text` in backticks becomes --max-text.

    Libraries name an option as Python has it, in backticks, and know of no flags. A name becomes the first long flag of
    the option of `parser` that has it as its `dest`, or the short one if that is all there is. Other names in backticks
    stay as they are, and so does what follows: "`precision` fp32" is "--precision fp32". An option of another command
    has that command before it, `export.max_text`, and becomes a flag too, whatever `parser` has.
    """
    flags = {
        action.dest: next((flag for flag in action.option_strings if flag.startswith("--")), action.option_strings[0])
        for action in parser._actions
        if action.option_strings
    }
    message = re.sub(r"`(\w+)`", lambda name: flags.get(name[1], name[0]), message)
    return re.sub(r"`export\.(\w+)`", lambda name: f"--{name[1].replace('_', '-')}", message)


def complain(message: str) -> None:
    """A line about what failed, of a command that goes on. --quiet does not silence it."""
    Console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _quietly(quiet: bool) -> Iterator[None]:
    """Inside, nothing is drawn or noted if `quiet`; errors are."""
    before = stderr.quiet
    stderr.quiet = quiet
    try:
        yield
    finally:
        stderr.quiet = before


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
    from rich.progress import BarColumn, DownloadColumn, TextColumn

    from fastv_runtime.config.bundle import Bundle, read_manifest

    total = sum(digest.size for digest in read_manifest(path, public_key=public_key).files.values())
    columns = (TextColumn("checking {task.fields[name]}"), BarColumn(), DownloadColumn(binary_units=True))
    with passing_bars(*columns) as bars:
        task = bars.add_task("", total=total, name=path)
        return Bundle.open(
            path,
            check_hashes=check_hashes,
            public_key=public_key,
            progress=lambda count: bars.advance(task, count),
        )


def passing_bars(*columns: ProgressColumn) -> Progress:
    """Bars on a terminal, gone when they end. Elsewhere there are none: rich would leave an empty line."""
    from rich.progress import Progress

    return Progress(*columns, console=stderr, transient=True, disable=not stderr.is_interactive)


def one_line(message: str) -> str:
    """A message that a terminal shows on one line: no breaks, and what cannot be printed is escaped."""
    words = " ".join(message.split())
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in words)


def note(line: str) -> None:
    """A line for people, as it is."""
    stderr.print(line, highlight=False, markup=False, soft_wrap=True)


def _about_path(error: OSError) -> str:
    """What an error of a path or a disk says; one that names no file is of standard output, if that is at fault."""
    try:
        flush_stdout()
    except UserError as unwritten:
        return str(unwritten)
    except BrokenPipeError:
        drop_stdout()
    name = error.filename2 or error.filename
    if name is None:
        name = "standard output" if stdout_refuses() else "a file"
    return str(cannot_write(name, error)) if error.errno in DISK else f"{name}: {error.strerror}"


def _settle(program: str) -> None:
    """Write out what was printed before a command ended itself; it fails where that cannot be."""
    try:
        flush_stdout()
    except UserError as error:
        _fail(program, str(error), 2)
    except BrokenPipeError:
        drop_stdout()


def _fail(program: str, message: str, code: int) -> NoReturn:
    try:
        flush_stdout()
    except (UserError, BrokenPipeError):
        drop_stdout()
    say(f"{program}: {one_line(message)}")
    sys.exit(code)


def _silence_libraries() -> None:
    from fastv_runtime import hf

    hf.silence()
    warnings.simplefilter("ignore")
