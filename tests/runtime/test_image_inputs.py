"""Whatever a caller has of an image becomes RGB: paths, bytes, PIL images, arrays, in the range that they have."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from fastv_runtime import UserError
from fastv_runtime.preprocessing.images.loading import as_image
from tests.conftest import noise_image
from tests.runtime.test_images import claim_png, encoded

COLOURS = np.asarray(noise_image(0))
GREYS = np.asarray(noise_image(1).convert("L"))
GREYS_RGB = np.stack([GREYS] * 3, 2)
SIXTEEN = GREYS.astype(np.uint16) * 257


def pixels(given: Any) -> np.ndarray:
    image = as_image(given)
    assert image.mode == "RGB"
    return np.asarray(image)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_an_image_is_the_same_however_it_is_given(tmp_path: Path) -> None:
    data = encoded(noise_image(0), "PNG")
    path = tmp_path / "image.png"
    path.write_bytes(data)
    opaque = np.full((*GREYS.shape, 1), 255, np.uint8)
    with Image.open(path) as lazy:
        given: list[Any] = [path, str(path), data, bytearray(data), memoryview(data), noise_image(0), lazy, COLOURS]
        given += [np.concatenate([COLOURS, opaque], 2), COLOURS.astype(np.uint16) * 257, COLOURS / 255.0, COLOURS[:]]
        for each in given:
            np.testing.assert_array_equal(pixels(each), COLOURS)
    for grey in (GREYS, GREYS[..., None], SIXTEEN, (GREYS / 255).astype(np.float32), GREYS.astype(np.float16)):
        np.testing.assert_array_equal(pixels(grey), GREYS_RGB)


def test_what_is_given_stays_as_it_is() -> None:
    image, array = noise_image(0), COLOURS.copy()
    as_image(image).paste("red", (0, 0, 9, 9))
    as_image(array).paste("red", (0, 0, 9, 9))
    np.testing.assert_array_equal(np.asarray(image), COLOURS)
    np.testing.assert_array_equal(array, COLOURS)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (SIXTEEN, "PNG"),
        (SIXTEEN, "TIFF"),
        (SIXTEEN, "PPM"),
        (SIXTEEN, "JPEG2000"),
        (SIXTEEN.astype(">u2"), "TIFF"),
        (SIXTEEN.astype(np.int32), "TIFF"),
        (GREYS.astype(np.int32), "TIFF"),
        (GREYS.astype(np.float32) / 255, "TIFF"),
        (GREYS.astype(np.float32), "TIFF"),
    ],
)
def test_deep_pixels_keep_their_range(values: np.ndarray, kind: str) -> None:
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(values), kind)), GREYS_RGB)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 2), -1.0, np.float32), "values from -1 to -1, an image's are 0 to 1 or 0 to 255"),
        (np.full((2, 2), 900.0, np.float32), "values from 900 to 900, an image's are 0 to 1 or 0 to 255"),
        (np.full((2, 2), np.nan, np.float32), "values from nan to nan"),
        (np.full((2, 2), 70000, np.int32), "values from 70000 to 70000, an image's are 0 to 65535"),
        (np.full((2, 2), -5, np.int32), "values from -5 to -5, an image's are 0 to 65535"),
    ],
)
def test_values_without_a_known_range_are_refused(values: np.ndarray, message: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(UserError, match=message) as caught:
        as_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"array \[3, 8, 9\] of uint8: an image is .* channels last"),
        (np.zeros((8, 9, 2), np.uint8), "channels last"),
        (np.zeros((1, 8, 9, 3), np.uint8), "channels last"),
        (np.zeros(9, np.uint8), "channels last"),
        (np.zeros((), np.uint8), "channels last"),
        (np.zeros((0, 9, 3), np.uint8), "channels last"),
        (np.zeros((8, 9), np.int64), "int64: an image's pixels are uint8, uint16 or float"),
        (np.zeros((8, 9), bool), "an image's pixels are"),
        (np.zeros((8, 9), object), "an image's pixels are"),
        (np.full((8, 9), 300.0), "values from 300 to 300"),
        (np.broadcast_to(np.uint8(0), (20000, 20000)), "20000 x 20000 pixels, the limit is 100,000,000"),
        (b"", "an image of 0 bytes"),
        (b"no image", "an image of 8 bytes: not an image in a known format"),
        (7, "an image of type int: give a path, the bytes of a file, a PIL image or a numpy array"),
        (None, "an image of type NoneType"),
        ([[0]], "an image of type list"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels"),
        ("no\0file", "cannot be read|no such image"),
        ("x" * 5000, "cannot be read|no such image"),
    ],
)
def test_what_is_no_image_gets_one_clear_line(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        as_image(given)
    assert "\n" not in str(caught.value)


def test_a_pil_image_whose_file_is_gone_gets_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(noise_image(0), "PNG"))
    image = Image.open(path)
    image.close()
    with pytest.raises(UserError, match="truncated or damaged"):
        as_image(image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
def test_other_modes_are_pillows_own_rgb(mode: str) -> None:
    image = noise_image(0).convert("RGB")
    image = image.convert("LAB") if mode == "LAB" else image.convert("P").convert(mode) if mode == "PA" else image
    image = image.convert(mode)
    np.testing.assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [noise_image(seed).quantize(200) for seed in (0, 1)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        shown = frames if kind == "GIF" else [frame.convert("RGB") for frame in frames]
        options = {"lossless": True} if kind == "WEBP" else {}
        shown[0].save(buffer, kind, save_all=True, append_images=shown[1:], **options)
        np.testing.assert_array_equal(pixels(buffer.getvalue()), np.asarray(frames[0].convert("RGB")))


def test_a_usual_image_imports_no_plugin_that_it_does_not_need() -> None:
    code = """
import io, sys
from PIL import Image
from fastv_runtime.preprocessing.images.loading import as_image
for kind in ("PNG", "JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, kind)
    as_image(buffer.getvalue())
assert not sys.modules.keys() & {"PIL.EpsImagePlugin", "PIL.WmfImagePlugin", "PIL.AvifImagePlugin"}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_files_and_to_pil_images(orientation: int) -> None:
    stored = np.asarray(noise_image(0))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]  # by what EXIF says of the 0th row and column: CIPA DC-008, 4.6.4
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        noise_image(0).save(buffer, kind, exif=exif)
        np.testing.assert_array_equal(pixels(buffer.getvalue()), upright)
        np.testing.assert_array_equal(pixels(Image.open(buffer)), upright)


def with_exif(entries: bytes, count: int, extra: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + b"\0\0\0\0" + extra
    Image.new("RGB", (64, 48), (200, 30, 30)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


TURNED = struct.pack("<HHII", 0x0112, 3, 1, 6)


def test_exif_of_odd_types_is_opened_and_turned() -> None:
    # DateTime, a text, with the type of a number.
    data = with_exif(TURNED + struct.pack("<HHII", 0x0132, 12, 1, 38), 2, struct.pack("<d", 1.5))
    assert as_image(data).size == (48, 64)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.binary(max_size=60))
def test_broken_exif_stops_no_image(entries: bytes) -> None:
    assert sorted(as_image(with_exif(entries, 3)).size) == [48, 64]


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    assert as_image(with_exif(struct.pack("<HHII", 0x0112, 3, 1, value), 1)).size == (64, 48)


BOMBS = {
    "ztxt": claim_png(4, 4).replace(b"IEND", b"")[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (2 << 20))),
    "iccp": claim_png(4, 4)[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * (2 << 20))),
    "icns": b"icns" + struct.pack(">I", 1 << 20) + b"ic08" + struct.pack(">I", 1 << 19) + claim_png(20000, 20000),
}


def damaged(kind: str, at: int, value: int) -> bytes:
    data = bytearray(encoded(noise_image(0), kind))
    data[at] = value
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        *BOMBS.values(),
        damaged("PPM", 3, 89),
        damaged("DDS", 80, 0),
        damaged("SGI", 10, 255),
        damaged("JPEG2000", 90, 0),
    ],
)
def test_bombs_and_damaged_files_get_one_line_with_the_files_name(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        as_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "SGI", "ICO", "DDS", "IM", "MSP"])
def test_formats_that_are_not_named_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    path = tmp_path / "image.png"
    image = noise_image(0).convert("1") if kind == "MSP" else noise_image(0)
    path.write_bytes(encoded(image, kind))
    with pytest.raises(UserError, match=r"not an image in a known format \(.*JPEG.*PNG.*\): convert it"):
        as_image(path)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(noise_image(0), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read it")
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        as_image(path)
