"""Pixels of any type as 8-bit RGB, in the range that they were stored in: black stays black and white white.

uint8: as it is. uint16: 0 to 65535. float: 0 to 1 where no pixel is above 1, else 0 to 255. 32-bit integers: 0 to 255
where no pixel is above that, else 0 to 65535. Anything outside (negative, above, NaN) has no known range: refused.
16 bits keep the higher 8, as Pillow does where an image has colours.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from fastv_runtime.errors import UserError

_SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose mode `I` is of 16 bits: so older releases of Pillow have it."""


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded image in RGB, without alpha; `name` is what errors call it. Raises UserError."""
    if image.mode == "F":
        return _grey(_from_float(np.asarray(image), name))
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if image.mode != "I" or image.format in _SIXTEEN_BITS:
            return _grey(_from_sixteen(pixels, name))
        return _grey(_from_integers(pixels, name))
    return image.convert("RGB")


def from_array(pixels: np.ndarray) -> Image.Image:
    """Pixels [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], alpha last, in RGB. Raises UserError."""
    name = f"an array {list(pixels.shape)} of {pixels.dtype}"
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1] if pixels.ndim == 3 else 0
    if channels not in (1, 3, 4) or not pixels.size:
        raise UserError(f"{name}: an image is [H, W], [H, W, 3] or [H, W, 4], channels last")
    values = pixels.reshape(*pixels.shape[:2], channels)[..., :3]
    if values.dtype == np.uint16:
        values = _from_sixteen(values, name)
    elif values.dtype.kind == "f":
        values = _from_float(values, name)
    elif values.dtype != np.uint8:
        raise UserError(f"{name}: an image's pixels are uint8, uint16 or float")
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3))))


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _from_float(values: np.ndarray, name: str) -> np.ndarray:
    least, most = float(values.min()), float(values.max())
    if not (least >= 0 and most <= 255):  # NaN is neither
        raise UserError(f"{name}: values from {least:g} to {most:g}, an image's are 0 to 1 or 0 to 255: scale them")
    return (values * (255 if most <= 1 else 1)).round().astype(np.uint8)


def _from_integers(values: np.ndarray, name: str) -> np.ndarray:
    return values.astype(np.uint8) if values.min() >= 0 and values.max() <= 255 else _from_sixteen(values, name)


def _from_sixteen(values: np.ndarray, name: str) -> np.ndarray:
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise UserError(f"{name}: values from {least} to {most}, an image's are 0 to 65535: scale them")
    return (values >> 8).astype(np.uint8)
