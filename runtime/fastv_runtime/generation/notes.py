"""What the caller should know of how a prompt was pruned. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fastv_runtime.config.lengths import Keeps, keeps, kept_count
from fastv_runtime.config.plan import Plan
from fastv_runtime.generation.calls.keep import HeldLengths


def pruning_notes(
    plan: Plan,
    text: int,
    visual: int,
    pruned: Sequence[int],
    keep: Keeps = None,
    held: HeldLengths | None = None,
) -> list[str]:
    """What would otherwise be a silent no-op, or a silent surplus.

    pruned: M after each cut. keep: what was asked of the cuts. held: what a share made of it.
    """
    if not plan.prunes:
        return ["this bundle does not prune: it was exported without pruning"]
    if visual == 0:
        return ["nothing to prune: the prompt has no image"]
    found = []
    for index, (cut, length, fraction) in enumerate(zip(plan.cuts, pruned, keeps(plan, keep), strict=True)):
        at = f"at layer {cut.layer}: " if len(plan.cuts) > 1 else ""
        if held is None:
            note = _note(visual, length - text, fraction, f"the pruned length is fixed in steps of {plan.text_step}")
        else:
            note = _held_note(length - text, held.held[index], held.share, fraction)
        found += [at + note] if note else []
    return found


def _note(visual: int, kept: int, keep: float, why: str) -> str | None:
    asked = kept_count(visual, keep)
    if kept == 0:
        return f"no visual token kept: keep {keep:g} of {visual} is none"
    if kept == asked:
        return None
    if kept == visual:
        return f"nothing pruned, where keep {keep:g} asks for {asked} of {visual} visual tokens: {why}"
    return f"{kept} visual tokens kept, {kept - asked} more than keep {keep:g} asks for: {why}"


def _held_note(kept: int, held: int, share: float, keep: float) -> str | None:
    if held <= kept:
        return None
    return f"{kept} visual tokens kept, all that keep {keep:g} allows, where share {share:g} asks for {held}"
