"""Whatever a caller has of an image: opened, checked, and in RGB the way up it was taken."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.brightness import from_array, to_rgb
from fastv_runtime.preprocessing.images.limits import MAX_PIXELS, decoding_limit, reduction

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray"
"""A path, the bytes of a file, a PIL image, or pixels [H, W], [H, W, 3] or [H, W, 4], as `as_image` takes them."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "AVIF", "JPEG2000", "TIFF", "WEBP")
"""What is opened, by Pillow's names; JPEG includes MPO. Others are rare, or start a program: PostScript is left to
Ghostscript."""
_BUILT_IN = 5
"""The first ones are there without importing all of Pillow's plugins, which takes 40 ms."""
_ORIENTATION = 0x0112
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation."""


def as_image(given: ImageInput) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says.

    given: a path, the bytes of a file in one of `FORMATS`, a PIL image in any mode, or pixels [H, W], [H, W, 1],
    [H, W, 3] or [H, W, 4] as uint8, uint16 or float. What a file holds decides, not its name; of an animation or a
    document the first frame or page is taken. Alpha is dropped: the colours under it are the image's. 16-bit and float
    pixels are brought to 8 bits as `fastv_runtime.preprocessing.images.brightness` says. Images above WORKING_PIXELS
    of `fastv_runtime.preprocessing.images.limits` are returned reduced. `given` is left as it is.
    Raises UserError, naming the file where there is one, for all that is not a whole image, or too large.
    """
    if isinstance(given, (str, os.PathLike)):
        return open_image(given)
    if isinstance(given, (bytes, bytearray, memoryview)):
        data = bytes(given)
        if not data:
            raise UserError("an image of 0 bytes: give the contents of an image file")
        return _decoded(lambda: io.BytesIO(data), f"an image of {len(data):,} bytes")
    if isinstance(given, Image.Image):
        return _from_pil(given)
    if isinstance(given, np.ndarray):
        return from_array(given)
    raise UserError(
        f"an image of type {type(given).__name__}: give a path, the bytes of a file, a PIL image or a numpy array"
    )


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image at `path`, as `as_image` returns it. Raises UserError."""
    name, path = os.fspath(path), Path(path)
    try:
        if not path.exists():
            raise UserError(f"{name}: no such image")
        if not path.is_file():
            raise UserError(f"{name}: not a file: give the path of an image")
        if path.stat().st_size == 0:
            raise UserError(f"{name}: the file is empty: copy the image again")
    except (OSError, ValueError) as error:  # names that are too long, or hold a null byte
        raise UserError(f"{name!r}: cannot be read: {error}") from None
    return _decoded(lambda: path.open("rb"), name)


def _decoded(source: Callable[[], BinaryIO], name: str) -> Image.Image:
    """The image that a file holds. Decoders raise errors of any type for damaged files; each becomes one line."""
    try:
        with source() as file:
            try:
                image = _opened(file)
            except UnidentifiedImageError:
                raise UserError(
                    f"{name}: not an image in a known format ({', '.join(FORMATS)}): convert it to PNG or JPEG"
                ) from None
            except Image.DecompressionBombError:
                raise UserError(f"{name}: too many pixels, the limit is {MAX_PIXELS:,}: scale it down") from None
            with image:
                width, height = image.size
                if width * height > (limit := decoding_limit(image)):
                    raise UserError(
                        f"{name}: {width} x {height} pixels, the limit for such a {image.format} file is {limit:,} in "
                        "all: scale it down, or save it as JPEG"
                    )
                # JPEG's decoder can leave out detail, and then never holds all pixels.
                factor = reduction(width, height)
                if factor > 1:
                    image.draft(None, (width // factor, height // factor))
                image.load()
                turn, rgb = _turn(image), to_rgb(image, name, reduction(*image.size))
            # Closed: before it is turned only one of the two is held.
            return rgb if turn is None else rgb.transpose(turn)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # not the decoder's
            raise UserError(f"{name}: cannot be read: {error.strerror}") from None
        raise _damaged(name, error) from None


def _opened(file: BinaryIO) -> Image.Image:
    """Not yet decoded. Raises UnidentifiedImageError for what is in none of `FORMATS`."""
    try:
        return Image.open(file, formats=FORMATS[:_BUILT_IN])
    except UnidentifiedImageError:
        Image.init()
        # AVIF needs Pillow 11.3.
        return Image.open(file, formats=[format for format in FORMATS[_BUILT_IN:] if format in Image.OPEN])


def _from_pil(image: Image.Image) -> Image.Image:
    """An image that the caller opened or made, by whatever plugin; it may still have to be decoded."""
    name = str(getattr(image, "filename", "") or "a PIL image")
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"{name}: {width} x {height} pixels, the limit is {MAX_PIXELS:,} in all: scale it down")
    if not width * height:
        raise UserError(f"{name}: {width} x {height} pixels: there is nothing to see")
    try:
        image.load()
        turn, rgb = _turn(image), to_rgb(image, name, reduction(*image.size))
        return rgb if turn is None else rgb.transpose(turn)
    except UserError:
        raise
    except Exception as error:
        raise _damaged(name, error) from None


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright. EXIF that cannot be read turns nothing: the pixels are there."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:
        return None


def _damaged(name: str, error: Exception) -> UserError:
    what = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name}: the image is truncated or damaged ({what}): copy it again")
