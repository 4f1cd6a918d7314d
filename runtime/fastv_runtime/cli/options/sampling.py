"""The options that say how the next token is chosen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fastv_runtime import limits
from fastv_runtime.cli.options.arguments import between, number, share, whole
from fastv_runtime.errors import UserError

if TYPE_CHECKING:
    from fastv_runtime.generation.sampling import Sampling

temperature = number(
    f"0 (greedy), or a number, {limits.COOLEST:g} to {limits.HOTTEST:,}",
    lambda found: found == 0 or limits.COOLEST <= found <= limits.HOTTEST,
)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=temperature, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument(
        "--top-k", type=whole(0, limits.TOP_K), metavar="K", help="sample among the K likeliest (default: 0, all)"
    )
    parser.add_argument("--top-p", type=share, metavar="P", help="nucleus sampling (default: 1, off)")
    parser.add_argument("--seed", type=whole(0, limits.SEED), metavar="N", help="of sampling (default: 0)")
    parser.add_argument(
        "--repetition-penalty",
        type=between(limits.SMALLEST_PENALTY, limits.LARGEST_PENALTY),
        metavar="X",
        help="above 1: what was said is said again less likely (default: as the checkpoint says; 1 is none)",
    )


def read_sampling(args: argparse.Namespace) -> Sampling:
    """How to sample. Raises UserError for options of sampling where nothing is sampled."""
    if args.temperature == 0:
        for flag, value in (("--top-k", args.top_k), ("--top-p", args.top_p), ("--seed", args.seed)):
            if value is not None:
                raise UserError(
                    f"{flag} {value}: changes nothing, since the likeliest token is taken: give --temperature, "
                    "or leave it out"
                )
    from fastv_runtime.generation.sampling import Sampling

    return Sampling(
        temperature=args.temperature,
        top_k=0 if args.top_k is None else args.top_k,
        top_p=1.0 if args.top_p is None else args.top_p,
        seed=0 if args.seed is None else args.seed,
        repetition_penalty=args.repetition_penalty,
    )
