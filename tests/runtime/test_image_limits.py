"""Memory follows what an image becomes: usual ones exactly as transformers has them, others bounded."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from fastv_runtime import UserError
from fastv_runtime.preprocessing.images import aspect, brightness, limits, loading, shrinking
from fastv_runtime.preprocessing.images.aspect import pad_to_square
from fastv_runtime.preprocessing.images.limits import decoding_limit, reduction
from fastv_runtime.preprocessing.images.loading import as_image
from fastv_runtime.preprocessing.images.shrinking import shrink_first
from tests.conftest import noise_image
from tests.runtime.test_image_inputs import with_exif
from tests.runtime.test_images import claim_png

MOST_ABOVE = 300
"""MB above a usual image's peak."""
CHILD = """
import io, sys
from pathlib import Path
from PIL import Image
from fastv_runtime.preprocessing import load_images
from fastv_runtime.preprocessing.images.loading import as_image
from tests.runtime.layouts import LAYOUTS, write_processor

def peak():
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000

def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

see = {}
for name in sys.argv[2:]:
    vision = write_processor(name, Path(sys.argv[1]))
    see[name] = load_images(Path(sys.argv[1]), vision)
for name in see:
    see[name](as_image(encoded(Image.new("RGB", (640, 480))))).views()
usual = peak()
for size, names in (((1, 100_000), see), ((1080, 12_000), ["pad"]), ((4000, 4000), ["llava-next"])):
    for name in names:
        see[name](as_image(encoded(Image.new("RGB", size)))).views()
print(peak() - usual)
"""


def test_thin_tall_and_large_images_stay_within_bounds(tmp_path: Path) -> None:
    layouts = ["crop", "pad", "llava-next", "internvl"]
    command = [sys.executable, "-c", CHILD, str(tmp_path), *layouts]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert float(done.stdout) < MOST_ABOVE


PROCESSORS = [
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 32, "width": 40}),
    LlavaImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    SiglipImageProcessorPil(size={"height": 24, "width": 32}),
]


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("size", [(300, 200), (201, 300), (1, 777), (640, 3), (33, 32), (911, 13)])
def test_a_shrunk_image_is_what_the_image_processor_makes_of_it(
    processor: Any, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise_image(3, size)
    expected = processor(images=image, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"]
    assert shrink_first(image, processor, {}) is None  # usual images are left to it
    monkeypatch.setattr(shrinking, "COPIED_PIXELS", 0)
    for most, tolerance in ((limits.WORKING_PIXELS, 0), (1, 1)):  # resized whole, and the part that the crop leaves
        monkeypatch.setattr(shrinking, "WORKING_PIXELS", most)
        shrunk = shrink_first(image, processor, {})
        assert shrunk is not None
        made = processor(images=shrunk, return_tensors="np", do_resize=False, do_normalize=False, do_rescale=False)
        np.testing.assert_allclose(made["pixel_values"].astype(int), expected.astype(int), atol=tolerance)
    if "shortest_edge" in dict(processor.size):
        assert shrunk is not None
        assert max(shrunk.size) <= 40


def test_what_nothing_would_crop_is_refused() -> None:
    with pytest.raises(UserError, match="an image of 1 x 90000 pixels: too thin for this model: crop it"):
        shrink_first(
            Image.new("RGB", (1, 90_000)), PROCESSORS[0], {"do_center_crop": False, "size": {"shortest_edge": 32}}
        )


def test_a_padded_image_is_shrunk_only_where_its_square_would_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGB", (40, 100), "white")
    assert pad_to_square(image, (0, 0, 0)).size == (100, 100)
    monkeypatch.setattr(aspect, "WORKING_PIXELS", 99 * 99)
    square = np.asarray(pad_to_square(image, (0, 0, 0)))
    assert square.shape == (50, 50, 3)
    assert square[:, 15:35].min() == 255
    assert square[:, :15].max() == square[:, 35:].max() == 0


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("JPEG", "RGB"), ("TIFF", "I;16"), ("TIFF", "F")]
)
def test_large_images_are_reduced_by_a_whole_number(kind: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (limits, loading, brightness):
        monkeypatch.setattr(module, "reduction", lambda width, height: reduction(width, height, 60 * 40))
    monkeypatch.setattr(brightness, "_BAND", 1000)
    image = noise_image(4, (181, 120)).convert("L" if mode in ("I;16", "F") else mode)
    grey = np.asarray(image)
    given = {"I;16": grey.astype(np.uint16) * 257, "F": grey.astype(np.float32)}.get(mode)
    buffer = io.BytesIO()
    (image if given is None else Image.fromarray(given)).save(buffer, kind)
    made = as_image(buffer.getvalue())
    factor = 4  # 181 * 120 / 16 is the first below 2400
    assert made.size == (-(-181 // factor), 120 // factor)
    expected = image.convert("RGB").reduce(factor)
    difference = np.abs(np.asarray(made).astype(int) - np.asarray(expected))[:, :-1]
    assert difference.max() <= (8 if kind == "JPEG" else 1)
    if given is not None:
        np.testing.assert_array_equal(np.asarray(as_image(given)), np.asarray(made))


def test_a_usual_photo_is_not_reduced() -> None:
    assert reduction(4608, 3456) == 1
    assert reduction(4001, 4000) == 2
    assert as_image(claimed("JPEG", (4608, 3456))).size == (4608, 3456)


def claimed(kind: str, size: tuple[int, int], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [
        ("PNG", {}, 51_200_000),
        ("JPEG", {}, 100_000_000),
        ("JPEG", {"progressive": True, "subsampling": 0}, 36_571_428),
        ("WEBP", {}, 16_000_000),
        ("AVIF", {}, 16_000_000),
        ("JPEG2000", {}, 12_800_000),
        ("TIFF", {}, 51_200_000),
        ("TIFF", {"compression": "tiff_lzw"}, 23_272_727),
    ],
)
def test_how_many_pixels_a_format_may_have_follows_from_its_decoder(kind: str, options: Any, most: int) -> None:
    buffer = io.BytesIO()
    noise_image(0).save(buffer, kind, **options)
    with Image.open(buffer) as image:
        assert decoding_limit(image) == most


def test_a_claimed_size_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(UserError, match="9000 x 8000 pixels, the limit for such a PNG file is 51,200,000 in all"):
        as_image(claim_png(9000, 8000))
    with pytest.raises(UserError, match="too many pixels, the limit is 100,000,000"):
        as_image(claim_png(1 << 30, 1 << 30))


def test_turned_photos_are_turned_after_they_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "reduction", lambda width, height: reduction(width, height, 800))
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"  # orientation 6
    assert as_image(with_exif(entry, 1)).size == (24, 32)
