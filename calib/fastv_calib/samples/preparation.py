"""What makes prompts of a checkpoint as the runtime would of its bundle: processor, chat template, layouts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.reading import within_bounds
from fastv_export.families import Family
from fastv_runtime.config.bundle import PROCESSOR
from fastv_runtime.generation.prompts.prompt import PromptBuilder
from fastv_runtime.preprocessing import Visual, load_images, load_videos, no_videos
from fastv_runtime.preprocessing.videos.decoding import Video


class Preparation:
    """Needs the checkpoint's processor and none of its weights.

    image_tokens: most visual tokens of one image; None means what the family takes.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, image_tokens: int | None = None):
        config = family.config(checkpoint)
        self._checkpoint, self._family = checkpoint, family
        with within_bounds(checkpoint.path / "config.json"):
            self.vision, self.video = family.vision(config, image_tokens), family.video(config)
            self.tokens = family.tokens(checkpoint, config)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / PROCESSOR
            family.write_processor(checkpoint, folder)
            self.prompts = PromptBuilder(folder, self.tokens)
            self.of_image = load_images(folder, self.vision)
            self._of_video = None if self.video is None else load_videos(folder, self.video)

    def of_image_within(self, image: Image.Image, tokens: int) -> Visual:
        """An image, resized by the family so that it becomes so many visual tokens at most."""
        vision = self._family.vision(self._family.config(self._checkpoint), tokens)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / PROCESSOR
            self._family.write_processor(self._checkpoint, folder)
            return load_images(folder, vision)(image)

    @property
    def frames(self) -> int:
        """Sampled of a video. Raises UserError where the family takes none."""
        if self.video is None:
            raise no_videos(self._family.model_type)
        return self.video.frames

    def of_video(self, video: Video) -> Visual:
        """A video, ready for the graphs. Raises UserError where the family takes none."""
        if self._of_video is None:
            raise no_videos(self._family.model_type)
        visual: Visual = self._of_video(video)
        return visual
