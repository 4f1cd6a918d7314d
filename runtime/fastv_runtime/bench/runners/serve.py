"""The runner's side of the lines of JSON in `bench/protocol.py`; as a module it serves a bundle.

    python -m fastv_runtime.bench.runners.serve '{"path": "NAME.fastv", "backend": "ort", ...}'

What it is given are the fields of `bundle.BackendChoice`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

from fastv_runtime.bench.machine.resident import peak_memory, resident_memory
from fastv_runtime.bench.protocol import PROTOCOL, Hello, RefusalMessage, Refused, Request, Runner
from fastv_runtime.config.base import StrictModel
from fastv_runtime.errors import UserError


def serve(load: Callable[[], Runner], requests: TextIO, replies: TextIO) -> None:
    """Load a runner and answer each request line, until there are no more. A refusal to load ends it."""

    def say(message: StrictModel) -> None:
        replies.write(message.model_dump_json() + "\n")
        replies.flush()

    base = resident_memory()
    try:
        runner = load()
    except (Refused, UserError) as error:
        say(RefusalMessage(refused=str(error)))
        return
    say(Hello(protocol=PROTOCOL, name=runner.name, settings=dict(runner.settings), base_memory=base))
    for line in requests:
        try:
            turn = runner.run(Request.model_validate_json(line))
            say(turn.model_copy(update={"peak_memory": peak_memory()}))
        except (Refused, UserError) as error:
            say(RefusalMessage(refused=str(error)))


def own_stdout() -> TextIO:
    """The standard output for replies alone; what libraries print goes to the standard error from now on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def main() -> None:
    from fastv_runtime.bench.runners.bundle import BackendChoice, BundleRunner, import_libraries

    choice = BackendChoice.model_validate_json(sys.argv[1])
    import_libraries(choice)  # not the model's memory
    serve(lambda: BundleRunner.load(choice), sys.stdin, own_stdout())


if __name__ == "__main__":
    main()
