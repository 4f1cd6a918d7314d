"""The contestant's side of the lines of JSON in `contestant.py`; as a module it serves a bundle.

python -m fastv_runtime.bench.serve '{"path": "NAME.fastv", "backend": "ort", ...}'   (the fields of `ours.Choice`)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

from fastv_runtime.bench.contestant import PROTOCOL, Contestant, Hello, Refusal, Refused, Request
from fastv_runtime.bench.resident import peak_memory, resident_memory
from fastv_runtime.errors import UserError
from fastv_runtime.schema import Model


def serve(load: Callable[[], Contestant], requests: TextIO, replies: TextIO) -> None:
    """Load a contestant and answer each request line, until there are no more. A refusal to load ends it."""

    def say(message: Model) -> None:
        replies.write(message.model_dump_json() + "\n")
        replies.flush()

    base = resident_memory()
    try:
        contestant = load()
    except (Refused, UserError) as error:
        say(Refusal(refused=str(error)))
        return
    say(Hello(protocol=PROTOCOL, name=contestant.name, settings=dict(contestant.settings), base_memory=base))
    for line in requests:
        try:
            turn = contestant.run(Request.model_validate_json(line))
            say(turn.model_copy(update={"peak_memory": peak_memory()}))
        except (Refused, UserError) as error:
            say(Refusal(refused=str(error)))


def own_stdout() -> TextIO:
    """The standard output for replies alone; what libraries print goes to the standard error from now on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def main() -> None:
    from fastv_runtime.bench.ours import BundleContestant, Choice, import_libraries

    import_libraries()  # not the model's memory
    choice = Choice.model_validate_json(sys.argv[1])
    serve(lambda: BundleContestant.load(choice), sys.stdin, own_stdout())


if __name__ == "__main__":
    main()
