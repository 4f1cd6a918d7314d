"""From a picture to `pixel_values`, with the checkpoint's own image processor and no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from fastv_runtime.bundle import Vision
from fastv_runtime.errors import UserError


class ImageProcessor:
    """transformers' PIL image processor, configured by the files in `directory`."""

    def __init__(self, directory: Path, vision: Vision):
        from transformers import AutoImageProcessor

        self._processor = AutoImageProcessor.from_pretrained(
            directory, backend="pil", local_files_only=True, trust_remote_code=False
        )
        self._vision = vision
        self.tokens = vision.tokens
        """Visual tokens that one picture becomes."""

    def __call__(self, image: Image.Image) -> Float[np.ndarray, "1 3 H W"]:
        """Resized, cropped and normalised as the checkpoint was trained."""
        values = self._processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"]
        expected = (1, 3, self._vision.image_height, self._vision.image_width)
        if values.shape != expected:
            raise UserError(
                f"the image processor made {list(values.shape)} where the vision graph takes {list(expected)}: "
                "preprocessor_config.json and config.json of the checkpoint do not belong together"
            )
        return np.ascontiguousarray(values, np.float32)

    def view(self, image: Image.Image) -> Image.Image:
        """The picture as the model sees it: resized and cropped, not normalised."""
        settings = {"do_rescale": False, "do_normalize": False}
        values = self._processor(images=image.convert("RGB"), return_tensors="np", **settings)["pixel_values"]
        return Image.fromarray(values[0].transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
