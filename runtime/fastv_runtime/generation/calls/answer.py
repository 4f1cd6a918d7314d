"""An answer, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fastv_runtime.config.plan import Plan
from fastv_runtime.generation.calls.keep import AskedKeep

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


class AnswerCut(BaseModel):
    """What one cut left of the prompt."""

    model_config = ConfigDict(extra="forbid")

    layer: int
    """K."""
    kept_visual_tokens: list[int]
    """Ascending indices into the prompt's visual tokens."""
    pruned_length: int
    reused_length: int = 0
    """Of these, how many the layers behind the cut need not have run: their caches held them from the prompt before."""


class Answer(BaseModel):
    """One answer and what it took. `model_dump_json()` is what `fastv-run` prints as JSON.

    `kept_visual_tokens` and `pruned_length` are what is left after the last cut; `cuts` has each.
    """

    model_config = ConfigDict(extra="forbid")

    prompt_tokens: int
    visual_tokens: int
    kept_visual_tokens: list[int]
    pruned_length: int
    cuts: list[AnswerCut] = Field(default_factory=list)
    """From the first layer to the last; none where the bundle does not prune."""
    keep: float
    """Fraction of visual tokens that was asked for: of this prompt, or the plan's; with a `share`, the most that was.
    1 where nothing is pruned."""
    share: float | None = None
    """Of the attention to visual tokens, what those that are kept were to hold. None: `keep` alone decided."""
    backend: str
    notes: list[str]
    """What the caller should know: that nothing could be pruned, say."""
    reused_tokens: int = 0
    """Of the prompt's tokens, how many the layers before the first cut need not have run."""
    text: str = ""
    """What the tokenizer's `decode` makes of `token_ids`, special tokens left out. Many models begin with a space."""
    token_ids: list[int] = Field(default_factory=list)
    """Generated tokens, the stop token included."""
    finish_reason: str = ""
    """`stop` (a stop token) or `length` (max_new_tokens); empty until then, and where reading ended earlier."""
    timings_ms: dict[str, float] = Field(default_factory=dict)
    """Wall-clock milliseconds per stage; `ttft` up to the first token; `decode_per_token` the mean of the rest.

    They do not include the time that a call waited for its turn."""


def begun_answer(
    plan: Plan,
    visual: Bool[np.ndarray, " S"],
    left: Sequence[Int[np.ndarray, " M"]],
    asked: AskedKeep,
    *,
    backend: str,
    notes: list[str],
    reused: Sequence[int],
) -> Answer:
    """The answer to a prompt that was prefilled. visual: which of its rows are; left: rows after each cut; reused: rows
    that each stage did not run."""
    places, count = np.cumsum(visual) - 1, int(visual.sum())
    cuts = [
        AnswerCut(
            layer=cut.layer,
            kept_visual_tokens=places[rows[visual[rows]]].tolist(),
            pruned_length=rows.size,
            reused_length=same,
        )
        for cut, rows, same in zip(plan.cuts, left, reused[1:], strict=True)
    ]
    return Answer(
        prompt_tokens=visual.size,
        visual_tokens=count,
        kept_visual_tokens=cuts[-1].kept_visual_tokens if cuts else list(range(count)),
        pruned_length=cuts[-1].pruned_length if cuts else visual.size,
        cuts=cuts,
        keep=plan.keep if asked.keep is None else asked.keep,
        share=asked.share,
        backend=backend,
        notes=notes,
        reused_tokens=reused[0],
    )
