"""Images that cannot be used get one clear line; those that can come out in RGB, the right way up."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastv_runtime import UserError
from fastv_runtime.preprocessing.images.loading import open_image
from tests.conftest import noise_image


def claim_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be `width` x `height`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "the file is empty"),
    "truncated.png": (encoded(noise_image(0), "PNG")[:-200], "truncated or damaged"),
    "truncated.jpg": (encoded(noise_image(0), "JPEG")[:-200], "truncated or damaged"),
    "mislabelled.png": (b"this is a text file with an image's name", "not an image in a known format"),
    "mislabelled.jpg": (b"%PDF-1.7 and so on", "not an image in a known format"),
    "huge.png": (claim_png(20000, 20000), "pixels, the limit is 100,000,000"),
    "large.png": (claim_png(12000, 9000), "12000 x 9000 pixels, the limit for such a PNG file is 51,200,000"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_gets_one_clear_line(name: str, tmp_path: Path) -> None:
    data, message = BAD_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such image"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(UserError, match="not a file"):
        open_image(tmp_path)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really-a-jpeg.png"
    path.write_bytes(encoded(noise_image(0), "JPEG"))
    assert open_image(path).mode == "RGB"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    Image.new(mode, (20, 10)).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = noise_image(0)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.rot90(np.asarray(image), -1))
