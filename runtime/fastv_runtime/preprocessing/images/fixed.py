"""Layout `fixed`: every image resized, cropped and normalised to one size by the checkpoint's own image processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fastv_runtime.config.layouts import FixedVision
from fastv_runtime.errors import UserError
from fastv_runtime.hf import load_image_processor
from fastv_runtime.preprocessing.images.aspect import mean_colour, pad_to_square
from fastv_runtime.preprocessing.images.brightness import in_rgb
from fastv_runtime.preprocessing.images.shrinking import shrink_first
from fastv_runtime.preprocessing.visual import GraphRun, Piece, View, Visual

if TYPE_CHECKING:
    from jaxtyping import Float


def pixels_as_seen(values: Float[np.ndarray, "3 H W"]) -> Image.Image:
    """An image of pixel values that were resized but not normalised, 0 to 255."""
    return Image.fromarray(values.transpose(1, 2, 0).clip(0, 255).astype(np.uint8))


def check_shape(values: np.ndarray, expected: tuple[int, ...]) -> None:
    """UserError unless pixel values are as the vision graph takes them."""
    if values.shape != expected:
        raise UserError(
            f"the image processor made {list(values.shape)} where the vision graph takes {list(expected)}: "
            "preprocessor_config.json and config.json of the checkpoint do not belong together"
        )


UNNORMALISED = {"do_rescale": False, "do_normalize": False}
"""Settings of an image processor whose output can be looked at."""


class FixedImages:
    """Images of one size, one run of the graph each."""

    def __init__(self, directory: Path, vision: FixedVision, settings: Mapping[str, Any] | None = None):
        """settings: of the image processor, instead of its own."""
        self._processor = load_image_processor(directory)
        self._vision = vision
        self._settings = dict(settings or {})

    def __call__(self, image: Image.Image) -> Visual:
        return Visual(
            kind="image",
            graph="vision",
            pieces=(Piece({"pixel_values": self.pixel_values(image)}, self._vision.tokens),),
            text=(GraphRun(self._vision.tokens),),
            views=lambda: [self.view(image)],
        )

    def pixel_values(self, image: Image.Image) -> Float[np.ndarray, "1 3 H W"]:
        """Resized, cropped and normalised as the checkpoint was trained."""
        values = self._process(image)
        check_shape(values, (1, 3, self._vision.image_height, self._vision.image_width))
        return np.ascontiguousarray(values, np.float32)

    def view(self, image: Image.Image, first: int = 0) -> View:
        """The image as the model sees it; its tokens are numbered from `first`."""
        rows, columns = self._vision.rows, self._vision.columns
        first += self._vision.leading
        seen = pixels_as_seen(self._process(image, **UNNORMALISED)[0])
        return View(seen, first + np.arange(rows * columns).reshape(rows, columns))

    def _process(self, image: Image.Image, **settings: Any) -> np.ndarray:
        chosen = self._settings | settings
        if self._vision.aspect == "pad":
            image = pad_to_square(image, mean_colour(chosen.get("image_mean", self._processor.image_mean)))
        image = in_rgb(image)
        shrunk = shrink_first(image, self._processor, chosen)
        if shrunk is not None:
            image, chosen = shrunk, chosen | {"do_resize": False}
        made = self._processor(images=image, return_tensors="np", **chosen)
        # Video-LLaVA's image processor names them after the model's two towers, unless it is told not to.
        return np.asarray(made["pixel_values_images" if "pixel_values_images" in made else "pixel_values"])
