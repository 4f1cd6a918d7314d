"""From a checkpoint's config and the user's options to the dimensions and the plan that a bundle records."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from fastv_export.families import Family
from fastv_export.hf.models import Limit
from fastv_export.rankers import RANKERS
from fastv_export.rankers.parts.needs import check_needs
from fastv_export.targets import TARGETS, TRT, TRT_LEGACY, choose_precision
from fastv_runtime import limits
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cost import cache_bytes, tokens_per_layer
from fastv_runtime.config.cuts import MOST_CUTS, Cut
from fastv_runtime.config.layouts import FixedVision, PatchesVision, VideoLayout, Vision
from fastv_runtime.config.lengths import capacity, kept_count
from fastv_runtime.config.plan import KEEP_STEPS, TEXT_STEP, Length, Plan, Precision, Weights
from fastv_runtime.config.wording import plan_of, precision_of, room_of
from fastv_runtime.errors import UserError

MOST_BYTES = 1 << 40
"""Of caches, and of a prompt's mask, a byte an element: no accelerator has as many."""


@dataclass(frozen=True)
class CutOption:
    """One of several cuts."""

    layer: int
    keep: float
    """Fraction of the prompt's visual tokens, not of those that earlier cuts left."""
    ranker: str | None = None
    """None: that of the options."""


@dataclass(frozen=True)
class Options:
    """What the user may choose. `layer` None writes the unsplit, unpruned baseline.

    `cuts`: several, in place of the one at `layer` that leaves `keep` of the visual tokens.

    `max_visual`: visual tokens of a prompt; None means room for `max_images` images (or one video, if that is more).
    `share`: of each prompt as few visual tokens as hold this share of attention, and the cuts' `keep` at most; None
    keeps that many of every prompt. `keep_steps`: how many counts there are then.
    `text_step`: None means TEXT_STEP, or `max_text` where that is less.
    `image_tokens`: most visual tokens of one image, for models that do not fix it; None means what the family takes.
    `target`: of `dialects.TARGETS`. `precision` None means the target's own.
    """

    layer: int | None = 2
    keep: float = 0.5
    ranker: str = "fastv"
    cuts: tuple[CutOption, ...] = ()
    share: float | None = None
    keep_steps: int = KEEP_STEPS
    length: Length = "exact"
    max_text: int = 128
    text_step: int | None = None
    max_images: int = 1
    max_visual: int | None = None
    image_tokens: int | None = None
    max_new_tokens: int = 256
    precision: Precision | None = None
    weights: Weights | None = None
    target: str = "ort"
    verify: bool = True


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
    cuts = _cuts(options)
    if cuts and layers < 2:
        raise UserError(
            f"`layer` {cuts[0].layer}: this decoder has one layer, and pruning takes two: one whose attention scores "
            "visual tokens, and one that runs without those that are dropped; export it unpruned (`prune`)"
        )
    for cut in cuts:
        if not 1 <= cut.layer < layers:
            raise UserError(
                f"`layer` {cut.layer}: must be 1 to {layers - 1}; this decoder has {layers} layers and the scores "
                "come from the layer before"
            )
    for cut in cuts or (CutOption(0, options.keep, options.ranker),):
        if not 0 < cut.keep <= 1:
            raise UserError(f"`keep` {cut.keep:g}: must be above 0 and at most 1, the fraction of visual tokens kept")
        if cuts and kept_count(vision.tokens, cut.keep) == 0:
            raise UserError(f"`keep` {cut.keep:g}: keeps none of {vision.tokens} visual tokens: give a larger one")
        if cut.ranker not in RANKERS:
            raise UserError(f"`ranker` {cut.ranker}: no such ranker; known rankers: {', '.join(RANKERS)}")
    _check_order(cuts)
    _check_share(options, cuts)
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
            Cut(layer=cut.layer, keep=cut.keep, ranker=ranker.name, signals=ranker.signals)
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
    _check_room(options, plan, decoder, vision)
    _check_heads(decoder, options.target)
    _check_pruned(plan, options.target)
    check_needs(plan, video, options.target, TARGETS[options.target].most_picked)
    _check_weights(plan, decoder, options.target)
    return plan


def _cuts(options: Options) -> tuple[CutOption, ...]:
    """Those asked for, each with its ranker; none for the baseline."""
    if options.cuts:
        return tuple(replace(cut, ranker=cut.ranker or options.ranker) for cut in options.cuts)
    return () if options.layer is None else (CutOption(options.layer, options.keep, options.ranker),)


def _check_order(cuts: Sequence[CutOption]) -> None:
    """UserError for cuts that do not follow one another, or of which one does nothing."""
    if len(cuts) > MOST_CUTS:
        raise UserError(f"`cuts`: {len(cuts)} of them: a plan has {MOST_CUTS} at most")
    for before, after in pairwise(cuts):
        if after.layer <= before.layer:
            raise UserError(
                f"`cuts` {after.layer}:{after.keep:g}: its layer does not come after {before.layer}, that of the cut "
                "before: give cuts from the first layer to the last"
            )
        if after.keep >= before.keep:
            raise UserError(
                f"`cuts` {after.layer}:{after.keep:g}: keeps no fewer visual tokens than the cut before, which keeps "
                f"{before.keep:g}: fractions are of all visual tokens of the prompt, so each must be lower"
            )


def _check_share(options: Options, cuts: Sequence[CutOption]) -> None:
    """UserError for a share that makes no sense, or of scores that nothing reads."""
    share = options.share
    if share is None:
        return
    if not 0 < share < 1:
        raise UserError(f"`share` {share:g}: must be above 0 and below 1, of the attention to visual tokens")
    if not cuts:
        raise UserError(f"`share` {share:g}: an unpruned model (`prune`) has none: leave one of them out")
    for cut in cuts:
        if "scores" not in RANKERS[cut.ranker or options.ranker].signals:
            reading = ", ".join(name for name, ranker in RANKERS.items() if "scores" in ranker.signals)
            raise UserError(
                f"`share` {share:g}: is of scores, and `ranker` {cut.ranker}, at layer {cut.layer}, reads none: leave "
                f"`share` out, or use one of {reading}"
            )


def plan_lines(plan: Plan, target: str) -> tuple[str, str]:
    """What an export is about to write, for people."""
    longest = capacity(plan)
    pruned = f"; the longest prompt, {longest.prompt} tokens, is pruned to {longest.pruned}"
    return (
        f"plan: {plan_of(plan)}; {precision_of(plan, TARGETS[target].name)}",
        f"room: {room_of(plan)}{pruned if longest.pruned < longest.prompt else ''}",
    )


def _check_step(options: Options) -> None:
    """UserError for steps that make no sense, or that nothing takes."""
    step = options.text_step
    if step is None:
        return
    if not 1 <= step <= options.max_text:
        raise UserError(f"`text_step` {step}: must be 1 to {options.max_text}, the text tokens a prompt may have")
    if not _cuts(options) or options.length != "fixed":
        raise UserError(f"`text_step` {step}: steps are of fixed pruned lengths: add `length` fixed, or leave it out")


def _check_room(options: Options, plan: Plan, decoder: DecoderConfig, vision: Vision) -> None:
    """UserError for a plan that has no room for its images, and for one that no machine has room for."""
    least = options.max_images * _fewest(vision)
    if plan.max_visual < least:
        images = "an image of this model takes" if options.max_images == 1 else f"{options.max_images} images take"
        raise UserError(
            f"`max_visual` {plan.max_visual}: {images} at least {least} visual tokens: "
            f"give {least} or more, or leave it out"
        )
    rows = capacity(plan)
    each = tokens_per_layer(decoder, plan.cut_layers, rows.keys)
    caches, mask = cache_bytes(decoder, each, plan.precision), rows.prompt * rows.keys[0]
    # Verification runs graphs here, with caches of their full size.
    limit, whose = (_memory(), "this machine") if options.verify else (MOST_BYTES, "any accelerator")
    if caches > limit or mask > MOST_BYTES:
        raise UserError(
            f"`max_text` {plan.max_text}, {plan.max_visual} visual tokens and `max_new_tokens` {plan.max_new_tokens} "
            f"make KV caches of {caches / 2**30:,.1f} GiB and a mask of {mask / 2**30:,.1f} GiB, and {whose} has "
            f"{limit / 2**30:,.1f} GiB: lower `max_text`, `max_images`, `max_visual`, `image_tokens` or "
            "`max_new_tokens`"
        )


def _fewest(vision: Vision) -> int:
    """Visual tokens that an image of this layout becomes at least."""
    match vision:
        case FixedVision():
            return vision.tokens
        case PatchesVision():
            return 1
        case _:
            return vision.side**2  # the whole image, as one tile


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check_heads(decoder: DecoderConfig, target: str) -> None:
    """UserError for heads of a width that a target's attention does not take."""
    width = decoder.head_dim
    if width not in TARGETS[target].heads:
        others = [name for name, dialect in TARGETS.items() if width in dialect.heads]
        raise UserError(
            f"this decoder's heads have {width} channels (head_dim), which target {target} does not take: "
            f"use `target` {' or '.join(others)}"
        )


def _check_weights(plan: Plan, decoder: DecoderConfig, target: str) -> None:
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
    if weights.floating or target == "ort":
        return
    if TARGETS[target] is TRT_LEGACY:  # DequantizeLinear takes blocks and four bits from opset 21 on
        raise UserError(
            f"`precision` int{weights.bits}: target {target} has no weights in blocks: "
            "use int8 without `block`, or fp16"
        )
    if weights.bits == 8:
        raise UserError(f"`precision` int8 `block` {weights.block}: TensorRT builds no such weights: leave `block` out")


def _check_pruned(plan: Plan, target: str) -> None:
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


def _max_visual(options: Options, vision: Vision, video: VideoLayout | None) -> int:
    if options.max_visual is not None:
        return options.max_visual
    return max(options.max_images * vision.tokens, 0 if video is None else video.tokens)


def check_positions(plan: Plan, limit: Limit | None) -> None:
    """UserError for a plan whose longest prompt and answer pass the `limit` of positions."""
    longest = capacity(plan).keys[0]
    if limit is not None and longest > limit.positions:
        raise UserError(
            f"`max_text` {plan.max_text}, {plan.max_visual} visual tokens and `max_new_tokens` {plan.max_new_tokens} "
            f"make {longest} positions and this model supports at most {limit.positions} ({limit.why}): "
            "lower `max_text`, `max_images`, `max_visual`, `image_tokens` or `max_new_tokens`"
        )


def position_note(plan: Plan, trained: int | None) -> str | None:
    """What is to be said of a plan that is longer than what the model was trained for, which transformers allows."""
    longest = capacity(plan).keys[0]
    if trained is None or longest <= trained:
        return None
    return (
        f"note: the longest prompt and answer take {longest} positions, and config.json has max_position_embeddings "
        f"{trained}: what a model says beyond is often nonsense; `max_text` and `max_new_tokens` set the length"
    )
