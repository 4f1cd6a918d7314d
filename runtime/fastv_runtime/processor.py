"""From a picture to `pixel_values`, with the checkpoint's own image processor and no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from fastv_runtime.bundle import Vision


class ImageProcessor:
    """transformers' PIL image processor, configured by the files in `directory`."""

    def __init__(self, directory: Path, vision: Vision):
        from transformers import AutoImageProcessor

        self._processor = AutoImageProcessor.from_pretrained(
            directory, backend="pil", local_files_only=True, trust_remote_code=False
        )
        self.tokens = vision.tokens
        """Visual tokens that one picture becomes."""

    def __call__(self, image: Image.Image) -> Float[np.ndarray, "1 3 H W"]:
        """Resized, cropped and normalised as the checkpoint was trained."""
        values = self._processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"]
        return np.ascontiguousarray(values, np.float32)
