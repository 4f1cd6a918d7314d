"""What the caller should know of how a prompt was pruned. Pure."""

from __future__ import annotations

from fastv_runtime.config.lengths import kept_count
from fastv_runtime.config.plan import Plan


def pruning_notes(plan: Plan, text: int, visual: int, pruned: int, keep: float) -> list[str]:
    """What would otherwise be a silent no-op, or a silent surplus. `pruned` is M, `keep` what was asked for."""
    if not plan.prunes:
        return ["this bundle does not prune: it was exported without pruning"]
    if visual == 0:
        return ["nothing to prune: the prompt has no image"]
    kept, asked = pruned - text, kept_count(visual, keep)
    if kept == 0:
        return [f"no visual token kept: keep {keep:g} of {visual} is none"]
    if kept == asked:
        return []
    steps = f"the pruned length is fixed in steps of {plan.text_step}"
    if kept == visual:
        return [f"nothing pruned, where keep {keep:g} asks for {asked} of {visual} visual tokens: {steps}"]
    return [f"{kept} visual tokens kept, {kept - asked} more than keep {keep:g} asks for: {steps}"]
