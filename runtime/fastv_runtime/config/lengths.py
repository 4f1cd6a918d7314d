"""How long things are: the pruned length of a prompt, and the capacities that a plan needs.

S is the prompt's length in tokens, T of them text and N visual; M is how many tokens the suffix prefills.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError


def kept_count(visual_tokens: int, keep: float) -> int:
    """Visual tokens kept of N: `round(N * keep)`, as the FastV reference counts them."""
    return round(visual_tokens * keep)


@dataclass(frozen=True)
class Capacity:
    """Rows (tokens) that the buffers of a plan must hold."""

    prompt: int
    """Rows of the prefix's input: the longest prompt."""
    pruned: int
    """Rows of the suffix's input: the longest pruned prompt."""
    prefix_cache: int
    """Keys per layer < K."""
    suffix_cache: int
    """Keys per layer >= K."""


def capacity(plan: Plan) -> Capacity:
    """Capacities of a plan, for prompts of `max_text` text tokens and `max_visual` visual tokens."""
    visual = plan.max_visual
    prompt = plan.max_text + visual
    pruned = prompt if not plan.prunes else plan.max_text + kept_count(visual, plan.keep)
    return Capacity(prompt, pruned, prompt + plan.max_new_tokens, pruned + plan.max_new_tokens)


def pruned_length(plan: Plan, text: int, visual: int, policy: str, capacity: Capacity) -> int:
    """M for a prompt of `text` + `visual` tokens.

    `exact`: text + round(keep * visual), the paper's count. `fixed`: max_text + round(keep * visual), so that
    prompts with as many images share one length; text below the budget leaves its slots to visual tokens.
    Never more than the prompt has. Raises UserError when the prompt is longer than the plan supports.
    """
    length = text + visual
    if length > capacity.prompt:
        raise UserError(
            f"the prompt has {length} tokens ({text} text, {visual} visual) and this bundle supports at most "
            f"{capacity.prompt}: shorten it, or export with a larger `export.max_text`, "
            "`export.max_images` or `export.max_visual`"
        )
    if not plan.prunes:
        return length
    budget = text if policy == "exact" else plan.max_text
    pruned = min(length, budget + kept_count(visual, plan.keep))
    if text > pruned:
        raise UserError(
            f"the prompt's text alone has {text} tokens and the pruned length is {pruned}: "
            "shorten it, use `length` exact, or export with a larger `export.max_text`"
        )
    if pruned > capacity.pruned:
        raise UserError(
            f"the pruned prompt has {pruned} tokens and this bundle supports at most {capacity.pruned}: "
            "shorten the text, or export with a larger `export.max_text`"
        )
    return pruned
