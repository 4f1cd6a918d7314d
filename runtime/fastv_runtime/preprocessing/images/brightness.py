"""Pixels of any type as 8-bit RGB, in the range that they were stored in: black stays black and white white.

uint8: as it is. uint16: 0 to 65535. float: 0 to 1 where no pixel is above 1, else 0 to 255. 32-bit integers: 0 to 255
where no pixel is above that, else 0 to 65535. Anything outside (negative, above, NaN) has no known range: refused.
16 bits keep the higher 8, as Pillow does where an image has colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.limits import MAX_PIXELS, reduction

_SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose mode `I` is of 16 bits: so older releases of Pillow have it."""
_BAND = 1_000_000
"""Pixels that are converted at a time, so that no second copy of a large image is made."""


def to_rgb(image: Image.Image, name: str, factor: int = 1) -> Image.Image:
    """A decoded image in RGB, without alpha, with both sides divided by `factor` (box filter, sides rounded up).

    The image itself stays as it is; `name` is what errors call it. Raises UserError.
    """
    convert = _conversion(image, name)
    if factor == 1 and convert is _usual:
        return image.convert("RGB")
    made = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, band in _bands(image, factor):
        rgb = convert(band)
        made.paste(rgb.reduce(factor) if factor > 1 else rgb, (0, top // factor))
    return made


def in_rgb(image: Image.Image) -> Image.Image:
    """The image itself where it is in RGB, and not a copy of it."""
    return image if image.mode == "RGB" else image.convert("RGB")


def from_array(pixels: np.ndarray) -> Image.Image:
    """Pixels [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], alpha last, in RGB. Raises UserError."""
    name = f"an array {list(pixels.shape)} of {pixels.dtype}"
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1] if pixels.ndim == 3 else 0
    if channels not in (1, 3, 4) or not pixels.size:
        raise UserError(f"{name}: an image is [H, W], [H, W, 3] or [H, W, 4], channels last")
    height, width = pixels.shape[:2]
    if height * width > MAX_PIXELS:
        raise UserError(f"{name}: {width} x {height} pixels, the limit is {MAX_PIXELS:,} in all: scale it down")
    values = pixels.reshape(height, width, channels)[..., :3]
    if values.dtype == np.uint8:
        convert: Callable[[np.ndarray], np.ndarray] = np.asarray
    elif values.dtype == np.uint16:
        convert = _high_byte
    elif values.dtype.kind == "f":
        scale = _float_scale(values.min(), values.max(), name)
        convert = partial(_scaled, scale=scale)
    else:
        raise UserError(f"{name}: an image's pixels are uint8, uint16 or float")
    factor = reduction(width, height)
    made = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = max(1, _BAND // (width * factor)) * factor
    for top in range(0, height, rows):
        part = convert(values[top : top + rows])
        rgb = Image.fromarray(np.ascontiguousarray(np.broadcast_to(part, (*part.shape[:2], 3))))
        made.paste(rgb.reduce(factor) if factor > 1 else rgb, (0, top // factor))
    return made


def _bands(image: Image.Image, factor: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Rows from top to bottom, a multiple of `factor` of them at a time, each band with its first row's number."""
    rows = max(1, _BAND // (image.width * factor)) * factor
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _conversion(image: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    """What makes RGB of a part of the image. Raises UserError where its values have no known range."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return _usual
    extremes = [(pixels.min(), pixels.max()) for pixels in (np.asarray(band) for _, band in _bands(image))]
    span = np.min([least for least, _ in extremes]), np.max([most for _, most in extremes])
    if image.mode == "F":
        scale = _float_scale(*span, name)
        return lambda band: _grey(_scaled(np.asarray(band), scale))
    sixteen = image.mode != "I" or image.format in _SIXTEEN_BITS or span[0] < 0 or span[1] > 255
    if sixteen:
        _check_sixteen(*span, name)
        return lambda band: _grey(_high_byte(np.asarray(band)))
    return lambda band: _grey(np.asarray(band).astype(np.uint8))


def _usual(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _float_scale(least: Any, most: Any, name: str) -> int:
    """What float pixels are multiplied by."""
    if not (least >= 0 and most <= 255):  # NaN is neither
        raise UserError(f"{name}: values from {least:g} to {most:g}, an image's are 0 to 1 or 0 to 255: scale them")
    return 255 if most <= 1 else 1


def _scaled(values: np.ndarray, scale: int) -> np.ndarray:
    return np.asarray((values * values.dtype.type(scale)).round(), np.uint8)


def _high_byte(values: np.ndarray) -> np.ndarray:
    return np.asarray(values >> 8, np.uint8)


def _check_sixteen(least: Any, most: Any, name: str) -> None:
    if least < 0 or most > 65535:
        raise UserError(f"{name}: values from {least} to {most}, an image's are 0 to 65535: scale them")
