"""What an export says of how weights of few bits were rounded."""

from __future__ import annotations

from fastv_export.passes import ScaledInputs
from fastv_export.quantization.static_ranges import HEAD, LIMIT
from fastv_runtime.config.plan import Plan, Weights


def quantization_notes(scaled: list[ScaledInputs], weights: Weights, by: str) -> list[str]:
    """One line each. scaled: of every decoder graph. by: whose activations they were."""
    if weights.floating:
        return [_ranges(scaled, by)]
    wide = [name for each in scaled for name in each.wide if not name.startswith(HEAD)]
    return [_scales(scaled, by)] + ([_wide(len(wide), scaled)] if wide else [])


def whole_note(graph: str, count: int, plan: Plan) -> str:
    assert plan.weights is not None
    block = plan.weights.block
    smaller = f": try `block` {block // 2}" if block is not None and block > 32 else ""
    return (
        f"note: {graph}: {count} weights stay {plan.precision}, as their inputs make no whole blocks of {block}, or "
        f"their outputs no pairs{smaller}"
    )


def _scales(scaled: list[ScaledInputs], by: str) -> str:
    stuck = sum(each.stuck for each in scaled)
    return (
        f"scales by {by}: {sum(each.scaled for each in scaled)} inputs of linear layers; "
        f"{sum(each.plain for each in scaled)} are as well off without"
        + (f", and {stuck} have none: nothing before them takes a scale" if stuck else "")
    )


def _ranges(scaled: list[ScaledInputs], by: str) -> str:
    return f"ranges by {by}: {sum(len(each.ranges) for each in scaled)} inputs of linear layers"


def _wide(wide: int, scaled: list[ScaledInputs]) -> str:
    given = wide + sum(len(each.ranges) for each in scaled)
    return (
        f"note: {wide} of {given} inputs of linear layers are not quantized, their weights alone have eight bits: one "
        f"range for all rows would put an ordinary one more than {LIMIT:.1%} off, since a few are far larger"
    )
