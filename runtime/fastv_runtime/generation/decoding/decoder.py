"""A language model as a slot uses it: one prompt, what follows it, and prompts that go on where another ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fastv_runtime.generation.decoding.saved import SavedDecoder
from fastv_runtime.memory.arena import Arena
from fastv_runtime.memory.buffers import Buffer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Timed = Callable[[str], AbstractContextManager[None]]
"""Called with a graph's name around its work, to time it."""
AskLength = Callable[["Float[np.ndarray, ' S']", "Bool[np.ndarray, ' S']"], int]
"""Given the scores of the rows that come to a cut, and which of them are visual, says how many are left."""


class Decoder(Protocol):
    """A language model with a prompt buffer and caches. One prompt at a time.

    A prompt may go on where another ended: `resume` says from which row on it is to be given, the caller writes these
    rows, and `prefill` runs what is new. What it then computes is what it would compute of the whole prompt.
    """

    arena: Arena
    prompt: Buffer
    """Input embeddings [1, capacity, D]; the caller fills rows of the prompt before `prefill`."""
    deepstack: list[Buffer]
    """[1, capacity, D], added after each of the first layers; the caller fills them likewise, 0 for text."""
    following: Buffer
    """Input embeddings [1, STEP_ROWS, D] of tokens behind the prompt; the caller fills as many as `step` is to run."""

    def resume(self, common: int, total: int) -> int:
        """The first row that the next `prefill` must be given, of a prompt of `total` tokens: 0, or what is cached.

        common: how many tokens at its start are those of the last prompt and of what was stepped behind it.
        """

    def prefill(
        self,
        positions: Int[np.ndarray, "axes S"],
        prunable: Bool[np.ndarray, " S"],
        pruned: Sequence[int],
        timed: Timed,
        ask: AskLength | None = None,
        change: Float[np.ndarray, " S"] | None = None,
        *,
        start: int = 0,
        stay: float | None = None,
    ) -> list[Int[np.ndarray, " M"]]:
        """Run a prompt of S rows, of which each cut leaves as many as `pruned` says, or as `ask`, if it is given, says
        at that cut: of a plan whose cuts all read scores, which are then read back before rows are selected.

        change: the signal of that name, for a plan that has it; None: nothing came before anything.
        start: what `resume` said, or a row before that; rows of the prompt before it are not read.
        stay: where no visual token is new, those that a cut had kept stay, if at least this share of those that it
        would keep now is among them: then nothing behind the cut is run again. None: each prompt is cut anew.
        Returns the rows of the prompt that are left after each cut, ascending.
        """

    @property
    def reused(self) -> list[int]:
        """Of the last `prefill`, how many rows of each stage were in its caches, and not run again."""

    def step(self, rows: int = 1) -> None:
        """Run 1 to STEP_ROWS tokens at the next positions. UserError, and nothing written, when a cache is full."""

    def save(self) -> SavedDecoder:
        """A copy of what `resume` goes on from."""

    def restore(self, saved: SavedDecoder) -> None:
        """As if what was saved had just been run here."""

    @property
    def token(self) -> int:
        """The likeliest token after the last row run: all that decoding greedily copies from a device."""

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        """Logits of the last row run."""
