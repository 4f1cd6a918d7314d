"""fastv: the seven commands as one, each imported when it is called; and completion for shells."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from fastv_runtime.cli.options.arguments import Parser, file, path, source
from fastv_runtime.console import add_common_arguments, add_version, command, parsed
from fastv_runtime.errors import missing_extra

SHELLS = ("bash", "zsh", "tcsh")


@dataclass(frozen=True)
class Command:
    """One of the seven: where it is, by name alone, since a device may lack what it needs; and what it does."""

    module: str
    summary: str

    def load(self) -> ModuleType:
        return import_module(self.module)


COMMANDS = {
    "export": Command("fastv_export.cli", "split a checkpoint, and write it as a bundle"),
    "calibrate": Command("fastv_calib.cli", "measure on your images which plan a checkpoint supports"),
    "run": Command("fastv_runtime.cli.run", "ask a bundle about images and videos"),
    "serve": Command("fastv_runtime.cli.serve", "answer over HTTP, as OpenAI's chat API has it"),
    "inspect": Command("fastv_runtime.cli.inspect", "show what a bundle holds and costs"),
    "build": Command("fastv_runtime.cli.build", "build a bundle's TensorRT engines"),
    "bench": Command("fastv_runtime.cli.bench", "measure bundles side by side"),
}
COMPLETION = "completion"


def parser() -> argparse.ArgumentParser:
    listed = "".join(f"  {name:12}{each.summary}\n" for name, each in COMMANDS.items())
    whole = Parser(
        "fastv",
        f"commands:\n{listed}  {COMPLETION:12}print what completes all of these in a shell\n\n"
        "`fastv run` is fastv-run, and so on; `fastv run --help` has its options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("command", choices=(*COMMANDS, COMPLETION), metavar="COMMAND", help="and what is for it")
    add_version(whole)
    return whole


def completion_parser() -> argparse.ArgumentParser:
    parser = Parser(
        "fastv completion",
        "Print a script that completes a command in a shell. "
        'For bash, in ~/.bashrc: eval "$(fastv completion bash)" completes fastv, and with a command\'s name that.',
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.add_argument(
        "of",
        nargs="?",
        default="fastv",
        choices=("fastv", *(f"fastv-{name}" for name in COMMANDS)),
        metavar="COMMAND",
        help="fastv (default), or one such as fastv-run",
    )
    return parser


def complete(args: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError:
        raise missing_extra("shtab", "completion") from None
    print(shtab.complete(_tree(args.of), shell=args.shell))


def _tree(program: str) -> argparse.ArgumentParser:
    """What a program takes, its commands' options among it."""
    if program != "fastv":
        return _completed(COMMANDS[program.removeprefix("fastv-")].load().parser())
    whole = argparse.ArgumentParser(prog="fastv")
    added = whole.add_subparsers()
    for name, each in COMMANDS.items():
        added.add_parser(name, parents=[_completed(each.load().parser())], add_help=False, help=each.summary)
    added.add_parser(COMPLETION, parents=[completion_parser()], add_help=False, help="print what completes commands")
    return whole


def _completed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With the options that every command has, and names of files where files are taken."""
    import shtab

    add_common_arguments(parser)
    for action in parser._actions:
        if action.type in (path, file, source):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == [COMPLETION]:
        command(completion_parser(), complete, words[1:])
    elif words[:1] and words[0] in COMMANDS:
        COMMANDS[words[0]].load().main(words[1:])
    else:
        parsed(parser(), words or ["--help"])
        parser().error("give the command first")


if __name__ == "__main__":
    main()
