"""Numbers of a checkpoint's config, looked at before anything is built of them: a million layers are built for hours,
and what libraries say of a width of zero names no field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf, prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.json_files import read_object
from fastv_export.checkpoint.reading import reading
from fastv_export.families import Family
from fastv_runtime import limits
from fastv_runtime.config.layouts import FixedVision, VideoLayout, Vision
from fastv_runtime.errors import UserError
from fastv_runtime.strict_json import said

SECTIONS = ("", "text_config", "vision_config", "visual")
"""Where dimensions stand; "" is the config itself."""
LAYERS = ("num_hidden_layers", "depth", "layers")
WIDTHS = (
    *("hidden_size", "intermediate_size", "embed_dim", "width", "out_hidden_size"),
    *("num_attention_heads", "num_key_value_heads", "num_heads", "heads", "head_dim"),
)
OTHERS = (
    *("vocab_size", "num_channels", "in_channels", "in_chans", "max_position_embeddings", "seq_length"),
    *("patch_size", "temporal_patch_size", "spatial_merge_size", "window_size", "num_position_embeddings"),
    "scale_factor",
)
PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
SIDE = 8192
"""Most pixels of an image that a tower sees whole, on each side: the largest published one sees 1,536."""
SIDES = 1 << 16
"""The same of the sizes on which an image is laid out in tiles."""


def check_values(checkpoint: Checkpoint) -> None:
    """UserError for dimensions in config.json that are no positive numbers, or that the weights cannot have."""
    where = checkpoint.path / "config.json"
    config = read_object(where)
    layers, largest = _bounds(checkpoint)
    for section in SECTIONS:
        values = config.get(section) if section else config
        if values is None:
            continue
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: {section} {values!r}: must be an object: copy the checkpoint again")
        prefix = f"{section}." if section else ""
        for name, number in _numbers(values, (*LAYERS, *WIDTHS, *OTHERS, "image_size"), where, prefix):
            if name in LAYERS and number > layers:
                raise UserError(
                    f"{where}: {prefix}{name} {number}: the checkpoint has {layers} tensors in all: config.json "
                    "and weights do not belong together"
                )
            if (name in WIDTHS or (name == "vocab_size" and section == "text_config")) and number > largest:
                raise UserError(
                    f"{where}: {prefix}{name} {number}: no tensor of the checkpoint has so many values: config.json "
                    "and weights do not belong together"
                )
            if name == "image_size" and number > SIDE:
                raise UserError(f"{where}: {prefix}{name} {number}: must be at most {SIDE} pixels")
    for name in PLACEHOLDERS:
        if name in config and type(config[name]) is not int and not (config[name] is None and name.startswith("video")):
            raise UserError(f"{where}: {name} {config[name]!r}: must be the id of a token, a whole number")
    pinpoints = config.get("image_grid_pinpoints")
    for pinpoint in pinpoints if isinstance(pinpoints, list) else ():
        for _, number in _numbers({"image_grid_pinpoints": pinpoint}, ("image_grid_pinpoints",), where, ""):
            if number > SIDES:
                raise UserError(f"{where}: image_grid_pinpoints {pinpoint}: must be at most {SIDES} pixels each")


def _bounds(checkpoint: Checkpoint) -> tuple[int, float]:
    """Most layers, and the widest, that the weights have room for: each layer has a tensor, each width a dimension.

    Of weights that are missing or damaged is said when they are read; what is wrong with the config alone comes first.
    """
    try:
        tensors = checkpoint.tensors.values()
    except UserError:
        return limits.LAYERS, inf
    return len(tensors), max((prod(tensor.shape) for tensor in tensors), default=0)


def _numbers(values: Mapping[str, Any], names: tuple[str, ...], where: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Each number of the fields that are there, with its name; null is not given. UserError for what is no number."""
    for name in names:
        value = values.get(name)
        for each in value if isinstance(value, list) else () if value is None else (value,):
            if type(each) is not int or each < 1:
                raise UserError(f"{where}: {prefix}{name} {value!r}: must be a whole number, 1 or more")
            yield name, each


def check_heads(where: Path, text_config: Any) -> None:
    """UserError for heads of queries that keys cannot be shared out among."""
    heads = text_config.num_attention_heads
    kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
    if heads % kv_heads:
        raise UserError(
            f"{where}: text_config: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )


def check_placeholders(where: Path, family: Family, config: Any) -> None:
    """UserError for placeholders of images and videos that are no row of the embedding."""
    size = config.get_text_config().vocab_size
    with reading(where):
        placeholders: dict[str, int | None] = {"image": family.image_token_id(config)}
        if family.video(config) is not None:
            placeholders["video"] = family.video_token_id(config)
    for kind, token in placeholders.items():
        if type(token) is not int or not 0 <= token < size:
            raise UserError(
                f"{where}: {kind}_token_id {token}: must be the id of a token, 0 to {size - 1} (vocab_size {size})"
            )


def layouts(
    where: Path, family: Family, config: Any, image_tokens: int | None = None
) -> tuple[Vision, VideoLayout | None]:
    """How the model sees images and videos; UserError that names config.json for one that sees nothing, or no end.

    image_tokens: most visual tokens of one image; UserError where the model fixes them.
    """
    if image_tokens is not None and image_tokens < 1:
        raise UserError(f"`image_tokens` {image_tokens}: must be at least 1")
    tower = getattr(config, "vision_config", None)
    sizes = ", ".join(
        f"{name} {value}" for name in ("image_size", "patch_size") if (value := getattr(tower, name, None)) is not None
    )
    with reading(where):
        try:
            vision, video = family.vision(config, image_tokens), family.video(config)
        except ValidationError as error:
            raise UserError(
                f"{where}: vision_config: no image can be seen ({said(error)}; {sizes}): mend it, or copy it again"
            ) from None
        tokens = [vision.tokens, *([] if video is None else [video.tokens])]
        pixels = [prod(axis for axis in tensor.shape if isinstance(axis, int)) for tensor in vision.inputs()]
    if min(tokens) < 1:
        raise UserError(
            f"{where}: vision_config: an image becomes no visual token ({sizes}): mend it, or copy it again"
        )
    if max(pixels) > 3 * SIDE**2:
        raise UserError(f"{where}: vision_config: an image becomes {max(pixels)} numbers ({sizes}), which is too many")
    if image_tokens is not None and isinstance(vision, FixedVision):
        raise UserError(
            f"`image_tokens` {image_tokens}: every image becomes {vision.tokens} visual tokens in this model: "
            "leave it out"
        )
    return vision, video
