"""Whether a target has operators for a plan."""

from __future__ import annotations

from fastv_export.quantization.presets import PROCESSORS
from fastv_export.targets import TARGETS, TRT, TRT_LEGACY
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError


def check_heads(decoder: DecoderConfig, target: str) -> None:
    """UserError for heads of a width that a target's attention does not take."""
    width = decoder.head_dim
    if width not in TARGETS[target].heads:
        others = [name for name, dialect in TARGETS.items() if width in dialect.heads]
        raise UserError(
            f"this decoder's heads have {width} channels (head_dim), which target {target} does not take: "
            f"use `target` {' or '.join(others)}"
        )


def check_weights(plan: Plan, decoder: DecoderConfig, target: str) -> None:
    """UserError for weights of few bits that do not fit a decoder, or that a target has no operator for."""
    weights = plan.weights
    if weights is None:
        return
    if weights.floating and TARGETS[target] is not TRT:
        raise UserError(
            f"`precision` {weights.name}: target {target} has no such kernels: use `target` trt or trt-rtx, or int8"
        )
    if weights.block is None:
        return
    for width in (decoder.hidden_size, decoder.num_attention_heads * decoder.head_dim, decoder.intermediate_size):
        if width % weights.block:
            raise UserError(
                f"`precision` {weights.name}: this decoder's linear layers have {width} inputs, which are no whole "
                f"blocks of {weights.block}: use a smaller `block`, or `precision` int8 without one"
            )
    if weights.floating or target in PROCESSORS:
        return
    if TARGETS[target] is TRT_LEGACY:  # DequantizeLinear takes blocks and four bits from opset 21 on
        raise UserError(
            f"`precision` int{weights.bits}: target {target} has no weights in blocks: "
            "use int8 without `block`, or fp16"
        )
    if weights.bits == 8:
        raise UserError(f"`precision` int8 `block` {weights.block}: TensorRT builds no such weights: leave `block` out")


def check_pruned(plan: Plan, target: str) -> None:
    """UserError for a plan that keeps more tokens than the `select` graph can pick on its target."""
    limit = TARGETS[target].most_picked
    if not plan.prunes or limit is None:
        return
    pruned = capacity(plan).rows[1]
    if pruned > limit:
        raise UserError(
            f"`max_text` {plan.max_text}, {plan.max_visual} visual tokens and `keep` {plan.cuts[0].keep:g} leave "
            f"{pruned} tokens and target {target} picks at most {limit}: lower `max_visual`, `image_tokens` or `keep`"
        )
