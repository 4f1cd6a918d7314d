"""The dimensions and the plan that options ask for, of a checkpoint's config."""

from __future__ import annotations

from typing import Any

from fastv_export.families import Family
from fastv_export.plan.cuts import check_cuts, cuts_of, idle_notes
from fastv_export.plan.options import Options
from fastv_export.plan.room import check_room
from fastv_export.plan.target import check_heads, check_pruned, check_weights
from fastv_export.rankers import RANKERS
from fastv_export.rankers.parts.needs import check_needs
from fastv_export.targets import TARGETS, choose_precision
from fastv_runtime import limits
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cuts import Cut
from fastv_runtime.config.layouts import VideoLayout, Vision
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import TEXT_STEP, Plan
from fastv_runtime.config.wording import plan_of, precision_of, room_of
from fastv_runtime.errors import UserError


def decoder_dimensions(config: Any, family: Family) -> DecoderConfig:
    """Dimensions of the language model from the whole model's transformers config."""
    text_config = config.get_text_config()
    heads = text_config.num_attention_heads
    return DecoderConfig(
        hidden_size=text_config.hidden_size,
        num_hidden_layers=text_config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=getattr(text_config, "num_key_value_heads", None) or heads,
        head_dim=getattr(text_config, "head_dim", None) or text_config.hidden_size // heads,
        intermediate_size=text_config.intermediate_size,
        vocab_size=text_config.vocab_size,
        gated_mlp=True,  # every decoder that the families so far use: Llama, Mistral, Qwen2, Qwen3
        position_axes=family.position_axes,
        deepstack_layers=family.deepstack_layers(config),
    )


def make_plan(options: Options, decoder: DecoderConfig, vision: Vision, video: VideoLayout | None) -> Plan:
    """The plan that the options ask for; UserError for one that makes no sense for this model."""
    layers = decoder.num_hidden_layers
    cuts = cuts_of(options, layers)
    check_cuts(options, cuts, layers, vision)
    for name, value, most in (
        ("max_text", options.max_text, limits.TOKENS),
        ("max_images", options.max_images, limits.IMAGES),
        ("image_tokens", options.image_tokens, limits.TOKENS),
        ("max_visual", options.max_visual, limits.TOKENS),
        ("max_new_tokens", options.max_new_tokens, limits.TOKENS),
        ("keep_steps", options.keep_steps, limits.TOKENS),
    ):
        if value is not None and not 1 <= value <= most:
            raise UserError(f"`{name}` {value}: must be 1 to {most:,}")
    _check_step(options)
    max_visual = _max_visual(options, vision, video)
    if max_visual > limits.TOKENS:
        raise UserError(
            f"`max_images` {options.max_images}: they are up to {max_visual:,} visual tokens, and a prompt may have "
            f"{limits.TOKENS:,}: lower it, or give `max_visual`"
        )
    plan = Plan(
        cuts=tuple(
            Cut(layer=cut.layer, keep=cut.keep, ranker=ranker.name, signals=ranker.signals, rotary=ranker.rotary)
            for cut in cuts
            for ranker in (RANKERS[cut.ranker or options.ranker],)
        ),
        length=options.length,
        precision=choose_precision(options.target, options.precision),
        weights=options.weights,
        max_text=options.max_text,
        max_visual=max_visual,
        max_new_tokens=options.max_new_tokens,
        text_step=min(TEXT_STEP, options.max_text) if options.text_step is None else options.text_step,
        share=options.share,
        keep_steps=options.keep_steps,
    )
    check_room(options, plan, decoder, vision)
    check_heads(decoder, options.target)
    check_pruned(plan, options.target)
    check_needs(plan, video, options.target, TARGETS[options.target].most_picked)
    check_weights(plan, decoder, options.target)
    return plan


def plan_lines(plan: Plan, target: str, vision: Vision) -> list[str]:
    """What an export is about to write, for people."""
    longest = capacity(plan)
    pruned = f"; the longest prompt, {longest.prompt} tokens, is pruned to {longest.pruned}"
    return [
        f"plan: {plan_of(plan)}; {precision_of(plan, TARGETS[target].name)}",
        f"room: {room_of(plan)}{pruned if longest.pruned < longest.prompt else ''}",
        *idle_notes(plan.cuts, vision),
    ]


def _check_step(options: Options) -> None:
    """UserError for steps that make no sense, or that nothing takes."""
    step = options.text_step
    if step is None:
        return
    if not 1 <= step <= options.max_text:
        raise UserError(f"`text_step` {step}: must be 1 to {options.max_text}, the text tokens a prompt may have")
    if not options.prune or options.length != "fixed":
        raise UserError(f"`text_step` {step}: steps are of fixed pruned lengths: add `length` fixed, or leave it out")


def _max_visual(options: Options, vision: Vision, video: VideoLayout | None) -> int:
    if options.max_visual is not None:
        return options.max_visual
    return max(options.max_images * vision.tokens, 0 if video is None else video.tokens)
