"""What a slot's buffers hold: the prompt before and its answer, which a later prompt may begin with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.decoding.saved import SavedDecoder
from fastv_runtime.generation.model import PreparedPrompt

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class HeldPrompt:
    """Tokens that went through the decoder, and which images stood for the placeholders among them."""

    token_ids: Int[np.ndarray, " S"]
    """Of the prompt."""
    visuals: dict[int, str]
    """Digests by the first row of each."""
    answer: Answer
    """Whose tokens follow, as far as they were run."""
    change: Float[np.ndarray, " S"] | None
    """The signal of that name of the prompt's rows, where the plan has it."""

    @classmethod
    def of(cls, prepared: PreparedPrompt, answer: Answer, change: np.ndarray | None) -> HeldPrompt:
        return cls(prepared.prompt.token_ids, prepared.first_rows, answer, change)

    def common(self, prepared: PreparedPrompt) -> int:
        """Tokens at the start of a prompt that are the same, and show the same."""
        held = np.concatenate([self.token_ids, np.asarray(self.answer.token_ids, np.int64)])
        ids = prepared.prompt.token_ids
        same = held[: ids.size] == ids[: held.size]
        common = int(same.size if same.all() else np.argmin(same))
        theirs = prepared.first_rows
        different = [row for row in {**self.visuals, **theirs} if self.visuals.get(row) != theirs.get(row)]
        return min([common, *different])


@dataclass(frozen=True)
class SavedConversation:
    """What a slot held, copied out of its buffers."""

    held: HeldPrompt
    decoder: SavedDecoder
    nbytes: int = field(init=False)
    """Bytes of the caches and states."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", self.decoder.nbytes)

    def common(self, prepared: PreparedPrompt) -> int:
        """As for the slot."""
        return self.held.common(prepared)
