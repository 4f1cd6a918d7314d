"""How long things are: the pruned length of a prompt, and the capacities that a plan needs.

S is the prompt's length in tokens, T of them text and N visual; M is how many tokens a stage after a cut prefills.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import floor
from numbers import Real

from fastv_runtime.config.plan import Length, Plan
from fastv_runtime.errors import UserError

Keeps = float | tuple[float, ...] | None
"""Fraction of visual tokens that the last cut leaves of one prompt, or that each leaves; None: what the plan says."""


def kept_count(visual_tokens: int, keep: float) -> int:
    """Visual tokens kept of N: `round(N * keep)`, as the FastV reference counts them."""
    return round(visual_tokens * keep)


@dataclass(frozen=True)
class Capacity:
    """Rows (tokens) that the buffers of a plan must hold."""

    rows: tuple[int, ...]
    """Of each stage's input: the longest prompt, and the longest that each cut leaves of it."""
    new_tokens: int

    @property
    def prompt(self) -> int:
        """Rows of the first stage's input."""
        return self.rows[0]

    @property
    def pruned(self) -> int:
        """Rows of the last stage's input: the longest pruned prompt, or where nothing is pruned the longest prompt."""
        return self.rows[-1]

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys per layer of each stage."""
        return tuple(rows + self.new_tokens for rows in self.rows)


def capacity(plan: Plan) -> Capacity:
    """Capacities of a plan, for prompts of `max_text` text tokens and `max_visual` visual tokens."""
    visual = plan.max_visual
    left = (visual, *(kept_count(visual, cut.keep) for cut in plan.cuts))
    return Capacity(tuple(plan.max_text + each for each in left), plan.max_new_tokens)


def keeps(plan: Plan, keep: Keeps) -> tuple[float, ...]:
    """Fraction of visual tokens that each cut leaves of a prompt.

    Where `keep` is of the last one, earlier cuts leave what the plan says, or as many as the last where that is more.
    """
    if isinstance(keep, tuple):
        return keep
    own = tuple(cut.keep for cut in plan.cuts)
    return own if keep is None else (*(max(each, keep) for each in own[:-1]), keep)


def with_keep(plan: Plan, keep: float) -> Plan:
    """The plan as it runs where a prompt, or all of them, are asked for another `keep`."""
    cuts = zip(plan.cuts, keeps(plan, keep), strict=False)  # none where nothing is pruned
    return plan.model_copy(update={"cuts": tuple(cut.model_copy(update={"keep": each}) for cut, each in cuts)})


def check_keep(plan: Plan, keep: Keeps) -> None:
    """UserError for a `keep` of one prompt, or its `cuts`, that make no sense for the bundle of a plan."""
    if keep is None:
        return
    name, each = ("`cuts`", keep) if isinstance(keep, tuple) else ("`keep`", (keep,))
    for fraction in each:
        if isinstance(fraction, bool) or not isinstance(fraction, Real):
            raise UserError(f"{name} {fraction!r}: must be a number above 0 and at most 1")
    if not plan.prunes:
        raise UserError(f"{name} {_words(keep)}: this bundle was exported without pruning: leave {name} out")
    for fraction in each:
        if not 0 < fraction <= 1:
            raise UserError(f"{name} {fraction:g}: must be above 0 and at most 1, the fraction of visual tokens kept")
    if not isinstance(keep, tuple):
        return
    if len(keep) != len(plan.cuts):
        layers = ", ".join(str(cut.layer) for cut in plan.cuts)
        raise UserError(
            f"{name} {_words(keep)}: {len(keep)} given, and this bundle cuts at layer {layers}: give one for each cut"
        )
    if any(later > earlier for earlier, later in pairwise(keep)):
        raise UserError(f"{name} {_words(keep)}: must descend or stay: a cut leaves no more than came to it")


def _words(keep: float | tuple[float, ...]) -> str:
    return " ".join(f"{each:g}" for each in keep) if isinstance(keep, tuple) else f"{keep:g}"


def text_room(plan: Plan, text: int, policy: str) -> int:
    """Tokens that a pruned length has for `text` tokens of text; what is more than these goes to visual tokens."""
    return text if policy == "exact" else -(-text // plan.text_step) * plan.text_step


def pruned_lengths(
    plan: Plan, text: int, visual: int, policy: str, capacity: Capacity, keep: Keeps = None
) -> tuple[int, ...]:
    """M after each cut, for a prompt of `text` + `visual` tokens. `keep` as for `keeps`.

    `exact`: text + round(keep * visual), the paper's count. `fixed`: the same with text rounded up to a multiple of
    `text_step`, so that prompts with as many images share a few lengths; text below it leaves its room to visual
    tokens. Never more than the prompt has, or the buffers hold. Raises UserError when the prompt is longer than the
    plan supports, or `keep` asks for more tokens than that.
    """
    length = text + visual
    if length > capacity.prompt:
        raise UserError(
            f"the prompt has {length} tokens ({text} text, {visual} visual) and this bundle supports at most "
            f"{capacity.prompt}: shorten it, or export with a larger `export.max_text`, "
            "`export.max_images` or `export.max_visual`"
        )
    check_keep(plan, keep)
    room = text_room(plan, text, policy)
    left = [kept_count(visual, each) for each in keeps(plan, keep)]
    room_of = capacity.rows[1:]
    # The last first: it has room for the fewest, and so says how much `keep` may be.
    for index in reversed(range(len(left))):
        if text + left[index] > room_of[index]:
            by_keep = (
                index == len(left) - 1 or isinstance(keep, tuple) or (keep is not None and keep > plan.cuts[index].keep)
            )
            raise _too_long(text, visual, left[index], room_of[index], keep, by_keep)
    return tuple(min(length, room + kept, most) for kept, most in zip(left, room_of, strict=True))


def pruned_length(plan: Plan, text: int, visual: int, policy: str, capacity: Capacity, keep: Keeps = None) -> int:
    """M after the last cut, as `pruned_lengths` has it; of a plan that does not prune, the prompt's length."""
    return (text + visual, *pruned_lengths(plan, text, visual, policy, capacity, keep))[-1]


@dataclass(frozen=True)
class EffectiveKeep:
    """What a pruned length keeps of a prompt's visual tokens."""

    length: Length
    """The policy."""
    text: int
    visual: int
    kept: int
    keep: float
    """`kept` / `visual`."""
    pruned_length: int


def effective_keep(plan: Plan, text: int, visual: int, policy: Length) -> EffectiveKeep:
    """Of a prompt with at least one visual token. Raises UserError as `pruned_length` does."""
    pruned = pruned_length(plan, text, visual, policy, capacity(plan))
    return EffectiveKeep(policy, text, visual, pruned - text, (pruned - text) / visual, pruned)


def _too_long(text: int, visual: int, kept: int, most: int, keep: Keeps, by_keep: bool) -> UserError:
    """by_keep: whether a smaller `keep` helps; a cut before the last keeps what its plan says."""
    too_long = f"the pruned prompt has {text + kept} tokens and this bundle supports at most {most}"
    largest = floor((most - text) / visual * 1000) / 1000 if visual else 0.0
    if largest <= 0 or not by_keep:
        return UserError(f"{too_long}: shorten the text, or export with a larger `export.max_text`")
    if keep is None:
        return UserError(
            f"{too_long}: shorten the text, use a smaller `keep`, or export with a larger `export.max_text`"
        )
    if isinstance(keep, tuple):
        return UserError(
            f"`cuts` {_words(keep)}: {too_long} where {kept} visual tokens stay: that fraction can be {largest:g} at "
            "most for this prompt; for more, export with a larger one in `export.cut`"
        )
    return UserError(
        f"`keep` {keep:g}: {too_long}: it can be {largest:g} at most for this prompt; "
        "for more, export with a larger `export.keep`"
    )
