"""What becomes of images that are not square: cropped, or padded as LLaVA 1.5 was trained to see them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from fastv_runtime.config.layouts import Aspect, FixedVision, FramesVideo, VideoLayout, Vision
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.brightness import in_rgb
from fastv_runtime.preprocessing.images.limits import WORKING_PIXELS


def pad_to_square(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The image in RGB, centred on a square of `background` whose side is the image's longer one.

    An odd pixel of padding goes below or to the right. Not padded, an image processor would crop the long side away.
    An image whose square would be above WORKING_PIXELS of `fastv_runtime.preprocessing.images.limits` is shrunk first,
    to half the side of a square of that many.
    Source: LLaVA 1.5, arXiv 2310.03744, `image_aspect_ratio: pad`.
    """
    longest = math.isqrt(WORKING_PIXELS)
    if max(image.size) > longest:
        scale = longest / 2 / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = in_rgb(image).resize((width, height), Image.Resampling.BOX)
    side = max(image.size)
    if image.size == (side, side):
        return in_rgb(image)
    square = Image.new("RGB", (side, side), background)
    square.paste(in_rgb(image), ((side - image.width) // 2, (side - image.height) // 2))
    return square


def mean_colour(image_mean: Sequence[float]) -> tuple[int, int, int]:
    """The background that an image processor's normalisation turns into almost zero: its `image_mean` in 0..255.

    Rounded down, as LLaVA's code and transformers' image processor for it do.
    """
    red, green, blue = (int(255 * mean) for mean in image_mean)
    return red, green, blue


def with_aspect(vision: Vision, video: VideoLayout | None, aspect: Aspect) -> tuple[Vision, VideoLayout | None]:
    """The layouts with another aspect; frames of a video that are seen as images of one size get it as well.

    Raises UserError for models that see the whole image whatever its shape.
    """
    if not isinstance(vision, FixedVision):
        raise UserError(f"`aspect` {aspect}: this model sees all of any image ({vision.layout}): leave it out")
    if isinstance(video, FramesVideo):
        video = video.model_copy(update={"image": video.image.model_copy(update={"aspect": aspect})})
    return vision.model_copy(update={"aspect": aspect}), video
