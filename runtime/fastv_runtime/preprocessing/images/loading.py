"""Images from disk: opened, checked, and in RGB the way up they were taken."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from fastv_runtime.errors import UserError

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can claim terabytes."""


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
