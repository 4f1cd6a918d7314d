"""The options that say what an answer may be, and where it ends."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastv_runtime.cli.options.arguments import shown, text
from fastv_runtime.errors import UserError

if TYPE_CHECKING:
    from fastv_runtime.generation.grammar import Grammar


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stop",
        type=_some,
        action="append",
        metavar="TEXT",
        help="end the answer before this text; up to 4, each with a --stop of its own",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--json-schema",
        type=text,
        metavar="FILE|TEXT",
        help="answer in JSON that this schema allows: a file, or the schema itself, which begins with {",
    )
    shape.add_argument("--regex", type=_some, metavar="TEXT", help="answer in text that the whole expression matches")


def read_grammar(args: argparse.Namespace) -> Grammar | None:
    """What the answer must be. Raises UserError for what no answer can be made to follow."""
    if args.json_schema is None and args.regex is None:
        return None
    from fastv_runtime.generation.grammar import Grammar

    if args.regex is not None:
        return Grammar.regex(args.regex)
    if args.json_schema.lstrip().startswith("{"):
        return Grammar.json_schema(args.json_schema)
    from fastv_runtime.cli.sources import read_file, text_of

    try:
        return Grammar.json_schema(text_of(read_file(args.json_schema), args.json_schema))
    except UserError as error:
        message = str(error).removeprefix("`json_schema`: ")
        raise UserError(message if message.startswith(args.json_schema) else f"{args.json_schema}: {message}") from None


def answer_extras(args: argparse.Namespace) -> Sequence[str]:
    """Extras of fastv-edge that these options need."""
    return () if args.json_schema is None and args.regex is None else ("serve",)


def _some(value: str) -> str:
    """Any text that is there, blank ones too."""
    if not value:
        raise argparse.ArgumentTypeError(f"{shown(value)}: must not be empty")
    return value
