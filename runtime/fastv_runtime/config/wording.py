"""What a bundle's weights and activations are, and what rounding them costs, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from fastv_runtime.config.manifest import GraphSpec, QuantizationCost
from fastv_runtime.config.plan import DialectName, Plan, Weights


def dialect_of(graphs: Mapping[str, GraphSpec]) -> DialectName:
    """The dialect of a bundle's graphs, which is one."""
    return next(iter(graphs.values())).dialect


def plan_of(plan: Plan) -> str:
    """How a plan prunes: "K=2, keep 0.5, ranker fastv, exact length"."""
    if not plan.prunes:
        return "not pruned"
    steps = f" in steps of {plan.text_step} text tokens" if plan.length == "fixed" else ""
    return f"{cuts_of(plan)}{share_of(plan.share, plan.keep_steps)}, {plan.length} length{steps}"


def share_of(share: float | None, steps: int) -> str:
    """What a share makes of a plan's cuts: " at most, as few as hold 0.9 of attention, in steps of 1/16"."""
    return "" if share is None else f", at most: as few as hold {share:g} of attention, in steps of 1/{steps}"


def cuts_of(plan: Plan) -> str:
    """Where a plan prunes, and by what: "K=2, keep 0.5, ranker fastv"; of several cuts each."""
    rankers = {cut.ranker for cut in plan.cuts}
    own = len(rankers) > 1
    each = [f"K={cut.layer}, keep {cut.keep:g}" + (f" ({cut.ranker})" if own else "") for cut in plan.cuts]
    return "; ".join(each) + ("" if own else f", ranker {rankers.pop()}")


def room_of(plan: Plan) -> str:
    """How long a prompt and its answer may be, in tokens."""
    return f"{plan.max_text} text tokens, {plan.max_visual} visual tokens, {plan.max_new_tokens} new tokens"


def precision_of(plan: Plan, dialect: DialectName) -> str:
    """Of products, as "int8 weights, int8 activations by row". What is said of `ort` holds for its CPU provider.

    That multiplies bytes where graphs are of float32 and weights have a scale an output (MatMulIntegerToFloat, rounded
    by row; the head, which is given one row, by block), and beside weights in blocks it rounds activations block by
    block, in half precision too (MatMulNBits of accuracy level 4). TensorRT rounds none but in fixed ranges, which are
    the decoder's and its head's.
    """
    weights = plan.weights
    if weights is None:
        return plan.precision
    if weights.floating:
        return _floating(plan, weights)
    return f"{_weights(weights)}, {_activations(plan, weights, dialect)}"


def _floating(plan: Plan, weights: Weights) -> str:
    wide = f" ({', '.join(weights.wide)}: fp8)" if weights.wide else ""
    return f"{weights.name} weights{wide}, activations quantized likewise (vision: {plan.precision})"


def _weights(weights: Weights) -> str:
    blocks = "" if weights.block is None else f" in blocks of {weights.block}"
    wide = f" ({', '.join(weights.wide)}: int8)" if weights.bits == 4 and weights.wide else ""
    return f"int{weights.bits} weights{blocks}{wide}"


def _activations(plan: Plan, weights: Weights, dialect: DialectName) -> str:
    if weights.static:
        return f"int8 activations in calibrated ranges (vision: {plan.precision})"
    if dialect == "ort" and weights.block is not None:
        return "int8 activations by block"
    if dialect == "ort" and plan.precision == "float32":
        return "int8 activations by row"
    if dialect == "openvino":
        return "int8 activations in groups"
    return f"{plan.precision} activations"


def cost_of(cost: QuantizationCost) -> str:
    """What quantization costs, for people: "43 of 49 tokens as unquantized, KL 0.022"."""
    return f"{cost.same} of {cost.asked} tokens as unquantized, KL {cost.kl:.2g}"
