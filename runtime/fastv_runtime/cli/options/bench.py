"""What fastv-bench may be asked for."""

from __future__ import annotations

import argparse

from fastv_runtime import limits
from fastv_runtime.bench.defaults import NEW_TOKENS, ROUNDS, WARMUP
from fastv_runtime.cli.options.arguments import Parser, file, keep, part, path, text, whole
from fastv_runtime.cli.options.backends import add_backend_arguments
from fastv_runtime.console import add_trust_arguments


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        "fastv-bench", "Measure bundles side by side: latency by stage, memory, energy, and what pruning gains."
    )
    parser.add_argument(
        "bundles",
        type=path,
        nargs="*",
        metavar="BUNDLE",
        help="those that prune, and the same model exported with --no-prune",
    )
    parser.add_argument(
        "--baseline", type=path, metavar="BUNDLE", help="the unpruned one, if it is not among the others"
    )
    parser.add_argument(
        "--image",
        dest="images",
        type=path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="images of one prompt (default: a built-in set of visual-token counts)",
    )
    parser.add_argument("--prompt", type=text, metavar="TEXT", help="the question that goes with them")
    parser.add_argument(
        "--peer", type=file, action="append", default=[], metavar="FILE", help="another runtime: see docs/peers.md"
    )
    parser.add_argument(
        "--keep",
        type=keep,
        nargs="+",
        default=[],
        metavar="R",
        help="fractions of visual tokens kept after the last cut, or auto, each measured beside the others (default: "
        "each bundle's own)",
    )
    parser.add_argument(
        "--share",
        type=part,
        metavar="X",
        help="with --keep auto: the share of attention that kept tokens hold (default: each bundle's own, or 0.9)",
    )
    parser.add_argument("--length", choices=["fixed", "exact"], help="pruned length (default: each bundle's own)")
    parser.add_argument(
        "--rounds", type=whole(1, limits.ROUNDS), default=ROUNDS, metavar="N", help=f"measured (default: {ROUNDS})"
    )
    parser.add_argument(
        "--warmup", type=whole(0, limits.ROUNDS), default=WARMUP, metavar="N", help=f"before them (default: {WARMUP})"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=whole(1, limits.TOKENS),
        metavar="N",
        help=f"of each answer (default: {NEW_TOKENS}, or what all support)",
    )
    add_backend_arguments(parser, several=True)
    add_trust_arguments(parser)
    parser.add_argument(
        "--profile",
        type=file,
        metavar="FILE",
        help="predict from this device profile (default: a probe of each baseline)",
    )
    parser.add_argument("--save-profile", type=file, metavar="FILE", help="write the profile of the first baseline")
    parser.add_argument(
        "--threads", type=whole(1, limits.THREADS), metavar="N", help="of one operator (default: one per core)"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=file,
        metavar=("OLD.json", "NEW.json"),
        help="measure nothing, say what changed; exit code 1 if something got worse beyond noise",
    )
    parser.add_argument("--report", type=file, metavar="OUT.html", help="write a page to look at")
    parser.add_argument("--json", type=file, metavar="OUT.json", help="write everything that was measured")
    return parser
