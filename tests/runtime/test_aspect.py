"""Padding to a square is what transformers' LLaVA image processor does."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from fastv_runtime.preprocessing.images.aspect import mean_colour, pad_to_square
from tests.conftest import noise_image

SIZES = [(64, 48), (48, 64), (50, 50), (1, 7), (8, 3), (3, 8)]


@pytest.mark.parametrize("size", SIZES)
def test_the_square_is_that_of_transformers(size: tuple[int, int]) -> None:
    image = noise_image(0, size)
    square = pad_to_square(image, (10, 120, 230))
    expected = LlavaImageProcessorPil().pad_to_square(np.asarray(image).transpose(2, 0, 1), (10, 120, 230))
    np.testing.assert_array_equal(np.asarray(square).transpose(2, 0, 1), expected)


@pytest.mark.parametrize("size", SIZES)
def test_what_the_model_sees_is_that_of_transformers(size: tuple[int, int]) -> None:
    image = noise_image(1, size)
    padding = LlavaImageProcessorPil(do_pad=True)
    plain = LlavaImageProcessorPil(do_pad=False)
    square = pad_to_square(image, mean_colour(padding.image_mean))
    expected = padding(image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(plain(square, return_tensors="np")["pixel_values"], expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    square = pad_to_square(Image.new(mode, (4, 2)), (1, 2, 3))
    assert (square.mode, square.size) == ("RGB", (4, 4))
    assert square.getpixel((0, 0)) == (1, 2, 3)
