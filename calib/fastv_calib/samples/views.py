"""A sample's images and frames as the model sees them, and which visual token of the prompt stands where."""

from __future__ import annotations

from fastv_calib.samples.data import Sample
from fastv_calib.samples.preparation import Preparation
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import Family
from fastv_runtime.generation.kept_image import numbered
from fastv_runtime.preprocessing import View
from fastv_runtime.preprocessing.images.loading import open_image
from fastv_runtime.preprocessing.videos.decoding import open_video


class Viewer:
    """Lays samples out as the runtime would; needs the checkpoint's processor and none of its weights.

    image_tokens: most visual tokens of one image; None means what the family takes.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, image_tokens: int | None):
        self._preparation = Preparation(checkpoint, family, image_tokens)

    def __call__(self, sample: Sample) -> list[View]:
        """The views of all images and frames, their tokens numbered as in the prompt."""
        prepare = self._preparation
        visuals = [prepare.of_image(open_image(image)) for image in sample.images]
        if sample.video is not None:
            visuals.append(prepare.of_video(open_video(sample.video, prepare.frames)))
        order = prepare.prompts.build(sample.prompt, visuals).order
        return numbered([visuals[index] for index in order])
