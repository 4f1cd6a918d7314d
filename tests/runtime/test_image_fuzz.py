"""Damaged images of every format, and arrays of every kind: an image in RGB or one clear line, nothing else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fastv_runtime import UserError
from fastv_runtime.preprocessing.images.limits import WORKING_PIXELS
from fastv_runtime.preprocessing.images.loading import FORMATS, as_image
from tests.conftest import noise_image

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "AVIF": ("RGB", {"speed": 10}),
    "BMP": ("P", {}),
    "GIF": ("P", {}),
    "JPEG": ("RGB", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
    "JPEG2000": ("RGBA", {}),
    "MPO": ("RGB", {}),
    "PNG": ("LA", {}),
    "PPM": ("RGB", {}),
    "TIFF": ("RGB", {"compression": "tiff_lzw"}),
    "WEBP": ("RGBA", {}),
}


def original(kind: str) -> bytes:
    mode, options = KINDS[kind]
    buffer = io.BytesIO()
    noise_image(0, (24, 17)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


ORIGINALS = {kind: original(kind) for kind in KINDS}


def image_or_line(given: Any) -> Image.Image | None:
    """What came of it; anything but an image and a UserError fails the test."""
    try:
        image = as_image(given)
    except UserError as error:
        assert "\n" not in str(error)
        return None
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= WORKING_PIXELS + image.width + image.height
    return image


def test_every_named_format_is_tried() -> None:
    assert set(KINDS) == {*FORMATS, "MPO"}
    for kind, data in ORIGINALS.items():
        image = image_or_line(data)
        assert image is not None, kind
        assert sorted(image.size) == [17, 24]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_images_are_opened_or_refused(
    kind: str, capfd: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    damaged = bytearray(ORIGINALS[kind])
    places = st.integers(0, len(damaged) - 1) | st.integers(0, min(len(damaged), 64) - 1)
    for place in data.draw(st.lists(places, max_size=6), "bytes that are changed"):
        damaged[place] ^= data.draw(st.sampled_from([1, 0x80, 0xFF]) | st.integers(1, 255))
    cut = data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)), "what is left")
    image_or_line(bytes(damaged[:cut]) + data.draw(st.binary(max_size=8)))
    if kind != "TIFF":  # libtiff writes lines of its own; nothing else does
        assert capfd.readouterr() == ("", "")


DTYPES = arrays.scalar_dtypes() | st.sampled_from([np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)])


@settings(max_examples=100)
@given(arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
def test_any_array_is_an_image_or_refused(array: np.ndarray) -> None:
    image = image_or_line(array)
    if image is not None:
        assert image.size == (array.shape[1], array.shape[0])
        assert array.dtype.kind in "uf"
        if array.dtype == np.uint8:
            colours = array if array.ndim == 3 else array[..., None]
            np.testing.assert_array_equal(np.asarray(image), np.broadcast_to(colours[..., :3], (*array.shape[:2], 3)))


@given(st.binary(max_size=64))
def test_any_bytes_are_refused(data: bytes) -> None:
    image_or_line(data)
