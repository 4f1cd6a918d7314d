"""How many pixels an image may have, and how many are worked on, so that memory follows what an image becomes.

Resident memory stays within 300 MB of what a usual image takes: `benchmarks/image_memory.py` measures it.
"""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

WORKING_PIXELS = 16_000_000
"""Images of at most so many are made ready exactly as transformers' image processor does it, which takes about 14 bytes
a pixel. Larger ones, and what would become larger on the way to the model's size, are reduced or cut first."""
MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can claim terabytes."""
DECODING_BYTES = 256_000_000
"""Most memory that decoding may take."""

_REDUCED = 1
"""Bytes a pixel of the reduced image beside the decoded one, reduced by two or more."""
_WHOLE_FRAMES = {"WEBP": 16, "AVIF": 16, "JPEG2000": 20}
"""Bytes a pixel of decoders that hold the image several times."""


def reduction(width: int, height: int, most: int = WORKING_PIXELS) -> int:
    """By what whole number to divide both sides so that an image has about `most` pixels at most; 1 is not at all."""
    return max(1, math.ceil(math.sqrt(width * height / most)))


def decoding_limit(image: Image.Image) -> int:
    """Most pixels that an image such as this one, opened and not yet decoded, may have."""
    return min(MAX_PIXELS, int(DECODING_BYTES / _bytes_per_pixel(image)))


def _bytes_per_pixel(image: Image.Image) -> float:
    """What decoding takes, as measured."""
    held = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    opened: Any = image
    if image.format in ("JPEG", "MPO"):
        if not image.info.get("progressive"):
            return 1  # decoded at half the size or less
        # All coefficients, two bytes each, of components that may be subsampled.
        areas: list[float] = [across * down for _, across, down, *_ in opened.layer]
        return 2 * sum(areas) / max(areas) + _REDUCED
    if image.format == "TIFF" and opened._compression != "raw":
        # The file is mapped, and a strip or tile, which may be all of it, is decoded before it is unpacked.
        return held + _REDUCED + 2 * _stored_bits(opened) / 8
    if image.format == "PPM" and opened.tile[0][0] != "raw":
        return held + 2 * max(held, 3)  # decoded in Python, twice
    return _WHOLE_FRAMES.get(str(image.format), held + _REDUCED)


def _stored_bits(image: Any) -> float:
    bits = image.tag_v2.get(258, (1,))
    return float(sum(bits) if len(bits) > 1 else bits[0] * image.tag_v2.get(277, 1))
