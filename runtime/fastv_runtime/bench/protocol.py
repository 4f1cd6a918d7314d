"""What takes part in a benchmark: anything that answers a request with the times that it took. The whole contract.

A runner answers one `Request` after another with a `Measurement` each. What a turn must be, whoever runs it:

- Images are decoded, and kept decoded, before its clock starts. The clock starts before they are resized and the
  prompt is tokenised, and stops for `ttft_ms` when the id of the first new token is known to the host.
- Exactly `new_tokens` tokens are generated, greedily, going on past stop tokens. `decode_ms` is the time from the first
  of them to the last, by their number less one; None where `new_tokens` is 1.
- Nothing is reused of an earlier turn: no prompt cache, no features of an image that was seen before.
- `stages_ms` has those of STAGES that the runner can tell apart; one that is missing is not known, not zero.
- Between turns it waits without work, since others are measured then.

A runner in a process of its own (another environment, another language) says the same over its standard input and
output, in UTF-8, one JSON object a line:

1. It loads its model, writes a `Hello`, and waits. If it cannot run under the conditions that it was started with
   (same weights, precision, threads), it writes a `RefusalMessage` that says why, and ends.
2. For each `Request` line that it reads it writes a `Measurement` line, or a `RefusalMessage`, after which it goes on.
3. It ends when its input does. Whatever else it has to say goes to its standard error.

`child.py` is the side of the benchmark, `serve.py` that of a runner in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from fastv_runtime.config.base import StrictModel
from fastv_runtime.generation.clock import STAGES

PROTOCOL: Literal[1] = 1
"""Counts up with every change that an older runner would misunderstand."""


class Request(StrictModel):
    """One prompt of one user turn."""

    images: tuple[str, ...]
    """Paths of image files, in the prompt's order; the prompt does not say where they stand: first."""
    prompt: str
    new_tokens: int


class Measurement(StrictModel):
    """What a request took. Times are wall-clock milliseconds."""

    stages_ms: dict[str, float]
    """By names of STAGES. A model that is not split has its prefill under `suffix`, one that is cut
    more than once all layers behind the first cut."""
    ttft_ms: float
    decode_ms: float | None
    """Per token after the first."""
    prompt_tokens: int
    """As the language model saw it, visual tokens included."""
    visual_tokens: int
    pruned_length: int
    """Tokens of the prompt that the last layer saw: `prompt_tokens` where nothing is pruned."""
    pruned_lengths: tuple[int, ...] = ()
    """Of a bundle: tokens that each of its cuts left."""
    peak_memory: int | None = None
    """Most bytes that the process has had resident so far; None where it shares its process with others."""


class Hello(StrictModel):
    """A runner in a process of its own is ready."""

    protocol: Literal[1]
    name: str
    settings: dict[str, str]
    """What it runs and how, for the reader of the report: versions, precision, threads, options."""
    base_memory: int | None = None
    """Bytes that the process had resident before it loaded the model."""


class RefusalMessage(StrictModel):
    """Why there is no turn, or no runner: one line for the report."""

    refused: str


class Refused(Exception):
    """A runner gives no figure, and says why in one line."""


class Runner(Protocol):
    """One that takes part."""

    @property
    def name(self) -> str:
        """Unique in a benchmark."""

    @property
    def settings(self) -> Mapping[str, str]:
        """As in `Hello`."""

    def run(self, request: Request) -> Measurement:
        """One turn. Raises Refused where it cannot be had under the contract."""

    def close(self) -> None:
        """Give back what it holds."""


def known_stages(turn: Measurement) -> Measurement:
    """The turn itself. Raises Refused if it is not one that the contract allows."""
    unknown = set(turn.stages_ms) - set(STAGES)
    if unknown:
        raise Refused(f"stage {sorted(unknown)[0]!r} is not one of {', '.join(STAGES)}")
    spent = sum(turn.stages_ms.values())
    if spent > turn.ttft_ms * 1.001 + 0.01:  # milliseconds that rounding in their text may add
        raise Refused(f"its stages take {spent:.1f} ms of a first token after {turn.ttft_ms:.1f} ms")
    return turn
