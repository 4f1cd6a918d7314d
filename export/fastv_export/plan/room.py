"""Whether there is room for a plan: for its images, in memory, and in the positions that a model knows."""

from __future__ import annotations

import os

from fastv_export.hf.models import Limit
from fastv_export.plan.options import Options
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cost import cache_bytes, tokens_per_layer
from fastv_runtime.config.layouts import FixedVision, PatchesVision, Vision
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError

MOST_BYTES = 1 << 40
"""Of caches, and of a prompt's mask, a byte an element: no accelerator has as many."""


def check_room(options: Options, plan: Plan, decoder: DecoderConfig, vision: Vision) -> None:
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
