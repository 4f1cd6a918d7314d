"""What all adapters share: their arguments, and the lines of JSON that fastv-bench reads and writes.

The contract is fastv_runtime/bench/protocol.py. This is a second reading of it, in the standard library alone, since
an adapter runs where nothing of this project is installed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TextIO

PRECISIONS = ("fp32", "int8", "int4")
RECEIPT = "fastv-peer.json"
"""Beside a converted model: which checkpoint it was made of, at which precision, and with what."""


class Refused(Exception):
    """The contract cannot be met; the message is one line for the report."""


@dataclass(frozen=True)
class Measurement:
    """As `Measurement` of the contract, milliseconds."""

    stages_ms: dict[str, float]
    ttft_ms: float
    decode_ms: float | None
    prompt_tokens: int
    visual_tokens: int
    pruned_length: int


class Peer(Protocol):
    """A loaded runtime. `run` raises Refused where a request cannot be answered under the contract."""

    name: str
    settings: dict[str, str]

    def run(self, images: Sequence[str], prompt: str, new_tokens: int) -> Measurement: ...


def serve(load: Callable[[argparse.Namespace], Peer], description: str | None, modules: Sequence[str]) -> None:
    """Load a peer by the command line's arguments and answer requests until there are no more.

    `modules`: what to import first, so that their memory is not taken for the model's.
    """
    replies = _own_stdout()
    try:
        args = _parser(description).parse_args()
        for module in modules:
            _import(module)
        base = _memory("VmRSS")
        peer = load(args)
    except Refused as error:
        _say(replies, refused=str(error))
        return
    _say(replies, protocol=1, name=peer.name, settings=peer.settings, base_memory=base)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            turn = peer.run(request["images"], request["prompt"], request["new_tokens"])
        except Refused as error:
            _say(replies, refused=str(error))
            continue
        _say(replies, **vars(turn), peak_memory=_memory("VmHWM"))


def receipt(args: argparse.Namespace) -> dict[str, str]:
    """What a converted model says of itself. Raises Refused if that is another precision than asked, or nothing."""
    path = args.model / RECEIPT
    try:
        said: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise Refused(f"{path}: no receipt of a conversion: make the model with benchmarks/peers/prepare.py") from None
    if said["precision"] != args.precision:
        raise Refused(f"{args.model} holds {said['precision']} weights, and {args.precision} were asked for")
    return said


def unpruned_only(args: argparse.Namespace) -> None:
    """Raises Refused if pruning is asked of a runtime that has none."""
    if args.keep != 1:
        raise Refused(f"it cannot prune visual tokens, and --keep {args.keep:g} was asked for")


def decoded(images: Sequence[str]) -> list[Any]:
    """Images in RGB, read once: the contract decodes before the clock starts."""
    return [_decoded(path) for path in images]


@lru_cache(maxsize=32)
def _decoded(path: str) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="as benchmarks/peers/prepare.py wrote it")
    parser.add_argument("--precision", choices=PRECISIONS, required=True, help="of the language model's weights")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--keep", type=float, default=1.0, help="share of visual tokens, for a runtime that prunes")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="a setting of the runtime's own"
    )
    return parser


def options(args: argparse.Namespace, known: dict[str, str]) -> dict[str, str]:
    """Settings of the runtime by name, defaults in `known`. Raises Refused for one that is not known."""
    given = dict(each.partition("=")[::2] for each in args.option)
    unknown = set(given) - set(known)
    if unknown:
        raise Refused(f"--option {sorted(unknown)[0]}: known are {', '.join(known) or 'none'}")
    return known | given


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise Refused(f"{module} cannot be imported by {sys.executable}: {error}") from None


def _say(replies: TextIO, **fields: Any) -> None:
    replies.write(json.dumps(fields) + "\n")
    replies.flush()


def _own_stdout() -> TextIO:
    """The standard output for replies alone; what libraries print goes to the standard error from now on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _memory(field: str) -> int | None:
    """Bytes of this process: VmRSS now, VmHWM at its peak; None where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(rf"^{field}:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.is_file() else None
    return int(found[1]) * 1024 if found else None
