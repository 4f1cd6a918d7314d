"""A sample's images and frames as the model sees them, and which visual token of the prompt stands where."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastv_calib.samples.data import Sample
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import Family
from fastv_runtime.config.bundle import PROCESSOR, Tokens
from fastv_runtime.generation.kept_image import numbered
from fastv_runtime.generation.prompt import PromptBuilder
from fastv_runtime.preprocessing import View, load_images, load_videos
from fastv_runtime.preprocessing.images.loading import open_image
from fastv_runtime.preprocessing.videos.decoding import open_video


class Viewer:
    """Lays samples out as the runtime would; needs the checkpoint's processor and none of its weights.

    image_tokens: most visual tokens of one image; None means what the family takes.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, image_tokens: int | None):
        config = family.config(checkpoint)
        video = family.video(config)
        tokens = Tokens(
            image=family.image_token_id(config),
            video=None if video is None else family.video_token_id(config),
            video_marker=None if video is None else family.video_marker,
            stop=family.stop_tokens(checkpoint, config),
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / PROCESSOR
            family.write_processor(checkpoint, folder)
            self._prompts = PromptBuilder(folder, tokens)
            self._images = load_images(folder, family.vision(config, image_tokens))
            self._video, self._videos = video, None if video is None else load_videos(folder, video)

    def __call__(self, sample: Sample) -> list[View]:
        """The views of all images and frames, their tokens numbered as in the prompt."""
        visuals = [self._images(open_image(image)) for image in sample.images]
        if sample.video is not None:
            assert self._video is not None and self._videos is not None  # or it would not have been measured
            visuals.append(self._videos(open_video(sample.video, self._video.frames)))
        order = self._prompts.build(sample.prompt, visuals).order
        return numbered([visuals[index] for index in order])
