"""Large and long thin images brought to a model's size without what an image processor holds on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.limits import WORKING_PIXELS

COPIED_PIXELS = 4_000_000
"""An image processor copies an image several times over before it is resized. It may have those of smaller ones."""


def shrink_first(image: Image.Image, processor: Any, settings: Mapping[str, Any]) -> Image.Image | None:
    """The RGB image as `processor` would resize it, for a large image or one that would become large.

    settings: of the processor, instead of its own. None for an image of at most COPIED_PIXELS that is resized to at
    most WORKING_PIXELS of `fastv_runtime.preprocessing.images.limits`: there the processor does it all. What is
    returned must not be resized again, and is still to be cropped. What would become more than WORKING_PIXELS is cut
    along its longer side to what a center crop would leave, with the pixels that it would have: the filter reaches
    beyond the cut. Raises UserError where nothing says what to crop.
    """

    def setting(name: str) -> Any:
        value = settings.get(name)
        return getattr(processor, name, None) if value is None else value

    size, resample = dict(setting("size") or {}), setting("resample")
    if not setting("do_resize") or size.get("longest_edge") or resample is None:
        return None
    large = image.width * image.height > COPIED_PIXELS
    if size.get("height") and size.get("width"):
        return image.resize((size["width"], size["height"]), Image.Resampling(resample)) if large else None
    if not (shortest := size.get("shortest_edge")):
        return None
    # As `get_resize_output_image_size` in transformers.
    short, long = sorted(image.size)
    resized = int(shortest * long / short)
    wide = image.width > image.height
    if shortest * resized <= WORKING_PIXELS:
        shape = (resized, shortest) if wide else (shortest, resized)
        return image.resize(shape, Image.Resampling(resample)) if large else None
    if not setting("do_center_crop"):
        raise UserError(f"an image of {image.width} x {image.height} pixels: too thin for this model: crop it")
    kept = min(resized, int(dict(setting("crop_size"))["width" if wide else "height"]))
    first = (resized - kept) // 2
    edges = first * long / resized, (first + kept) * long / resized
    if wide:
        return image.resize((kept, shortest), Image.Resampling(resample), (edges[0], 0, edges[1], short))
    return image.resize((shortest, kept), Image.Resampling(resample), (0, edges[0], short, edges[1]))
