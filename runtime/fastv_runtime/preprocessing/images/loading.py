"""Images from disk: opened, checked, and in RGB the way up they were taken."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fastv_runtime.errors import UserError

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can claim terabytes."""

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray | Image.Image"
"""What an image may be given as: a path, a file's bytes, an array (H, W) or (H, W, 3 or 4) of uint8, a Pillow image."""


def as_image(given: ImageInput) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says. Raises UserError for what is no image."""
    if isinstance(given, (str, os.PathLike)):
        return open_image(Path(given))
    try:
        if isinstance(given, (bytes, bytearray, memoryview)):
            given = Image.open(io.BytesIO(given))
        elif isinstance(given, np.ndarray):
            given = Image.fromarray(given)
        if isinstance(given, Image.Image):
            return ImageOps.exif_transpose(given).convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        raise UserError(f"{type(given).__name__}: not an image: {error}") from None
    raise UserError(f"{type(given).__name__}: not an image: give a path, bytes, an array or a Pillow image")


def open_image(path: str | Path) -> Image.Image:
    """The image at `path` in RGB, turned as its EXIF orientation says.

    What the file holds decides, not its name. Raises UserError for what is not a whole image.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such image")
    if not path.is_file():
        raise UserError(f"{path}: not a file: give the path of an image")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty: copy the image again")
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image in a known format: convert it to PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: too many pixels, the limit is {MAX_PIXELS:,}: scale it down") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UserError(f"{path}: {width} x {height} pixels, the limit is {MAX_PIXELS:,} in all: scale it down")
        try:
            return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: the image is truncated or damaged ({error}): copy it again") from None
