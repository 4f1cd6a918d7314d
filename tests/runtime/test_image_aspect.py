"""Which part of an image that is not square a model with one size sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fastv_runtime import UserError
from fastv_runtime.config.layouts import AnyresVision, FixedVision, FramesVideo
from fastv_runtime.preprocessing import load_images
from fastv_runtime.preprocessing.images.aspect import with_aspect
from tests.conftest import noise_image

VISION = FixedVision(image_height=32, image_width=32, rows=4, columns=4)
MEAN = [0.2, 0.5, 0.9]
COLOUR = (51, 127, 229)


@pytest.fixture
def processor(tmp_path: Path) -> CLIPImageProcessorPil:
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=MEAN, image_std=[0.3, 0.2, 0.4]
    )
    processor.save_pretrained(tmp_path)
    return processor


@pytest.mark.parametrize("size", [(90, 40), (41, 91), (50, 50)])
def test_padded_images_are_what_the_processor_makes_of_a_square(
    processor: CLIPImageProcessorPil, tmp_path: Path, size: tuple[int, int]
) -> None:
    image = noise_image(3, size)
    whole = ImageOps.pad(image, (max(size), max(size)), color=COLOUR)
    for aspect, seen in (("pad", whole), ("crop", image)):
        vision, _ = with_aspect(VISION, None, aspect)
        (piece,) = load_images(tmp_path, vision)(image).pieces
        expected = processor(images=seen, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(piece.inputs["pixel_values"], expected)


def test_the_drawn_view_is_padded_too(processor: CLIPImageProcessorPil, tmp_path: Path) -> None:
    vision, _ = with_aspect(VISION, None, "pad")
    (view,) = load_images(tmp_path, vision)(Image.new("RGB", (64, 16), "white")).views()
    assert view.image.getpixel((16, 0)) == COLOUR
    assert view.image.getpixel((16, 16)) == (255, 255, 255)


def test_frames_follow_the_images() -> None:
    video = FramesVideo(graph="video", frames=8, image=VISION, tokens_per_frame=17)
    vision, changed = with_aspect(VISION, video, "pad")
    assert vision == VISION.model_copy(update={"aspect": "pad"})
    assert changed == video.model_copy(update={"image": vision})


def test_models_that_see_everything_refuse() -> None:
    tiles = AnyresVision(tile=32, side=4, pinpoints=((64, 32),))
    with pytest.raises(UserError, match="`aspect` pad: this model sees all of any image"):
        with_aspect(tiles, None, "pad")
