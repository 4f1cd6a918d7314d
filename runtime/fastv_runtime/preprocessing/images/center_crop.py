"""Long thin images: what a center crop would leave of them is cut out before they are resized, not after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.limits import WORKING_PIXELS


def cut_first(image: Image.Image, processor: Any, settings: Mapping[str, Any]) -> Image.Image | None:
    """The part of a resized image that `processor` would keep, for an image that it would make too large to hold.

    settings: of the processor, instead of its own. None for an image that is resized to at most WORKING_PIXELS of
    `fastv_runtime.preprocessing.images.limits`: there the processor does it all. What is returned must not be resized
    again; its shorter side is still to be cropped or padded. Pixels are those of resizing all of it: the filter
    reaches beyond what is cut. Raises UserError where nothing says what to crop.
    """

    def setting(name: str) -> Any:
        return settings.get(name, getattr(processor, name, None))

    shortest = (setting("size") or {}).get("shortest_edge")
    if not setting("do_resize") or not shortest or (setting("size") or {}).get("longest_edge"):
        return None
    # As `get_resize_output_image_size` in transformers.
    short, long = sorted(image.size)
    resized = int(shortest * long / short)
    if shortest * resized <= WORKING_PIXELS:
        return None
    if not setting("do_center_crop"):
        raise UserError(f"an image of {image.width} x {image.height} pixels: too thin for this model: crop it")
    crop = setting("crop_size")
    kept = min(resized, int(crop["width" if image.width > image.height else "height"]))
    first = (resized - kept) // 2
    edges = first * long / resized, (first + kept) * long / resized
    resample = Image.Resampling(setting("resample"))
    if image.width > image.height:
        return image.resize((kept, shortest), resample, (edges[0], 0, edges[1], short))
    return image.resize((shortest, kept), resample, (0, edges[0], short, edges[1]))
