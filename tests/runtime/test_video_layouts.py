"""Frames go through the settings of the video processor, where those are not the image processor's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import VideoLlavaImageProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from fastv_runtime.config.layouts import FixedVision, FramesVideo, PooledVideo
from fastv_runtime.config.tile_layouts import FrameText, TilesVideo, TilesVision, TileText
from fastv_runtime.preprocessing import load_videos
from tests.families.row import noise_video

SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
VIDEO = {"image_mean": [0.3, 0.5, 0.6], "image_std": [0.4, 0.3, 0.5], "resample": 2, "rescale_factor": 1 / 128}
TILES = TilesVision(tile=SIDE, side=2, max_tiles=1, settings={}, text=TileText())
FRAMES = FramesVideo(
    graph="video",
    frames=8,
    image=FixedVision(image_height=SIDE, image_width=SIDE, rows=4, columns=4),
    tokens_per_frame=17,
)


def tiles(**settings: Any) -> TilesVideo:
    return TilesVideo(frames=8, image=TILES.model_copy(update={"settings": settings}), text=FrameText())


def smolvlm(longest: int, **settings: Any) -> Any:
    return SmolVLMImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False, **settings
    )


CASES: dict[str, tuple[Any, dict[str, Any], Any, Any]] = {
    # What the images get, what the videos get, the layout, transformers' processor with the settings of videos.
    "video_llava": (
        VideoLlavaImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
        FRAMES,
        VideoLlavaImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE, **VIDEO),
    ),
    "llava_onevision": (
        LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=[[SIDE, SIDE]]),
        {"size": SQUARE},
        PooledVideo(frames=8, tile=SIDE, side=4),
        SiglipImageProcessorPil(size=SQUARE, **VIDEO),
    ),
    "smolvlm": (
        smolvlm(4 * SIDE),
        {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}},
        tiles(return_row_col_info=True, size={"longest_edge": SIDE}),
        smolvlm(2 * SIDE, **VIDEO),
    ),
    "internvl": (
        GotOcr2ImageProcessorPil(size=SQUARE),
        {"size": SQUARE},
        tiles(crop_to_patches=True, max_patches=1),
        GotOcr2ImageProcessorPil(size=SQUARE, **VIDEO),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("nested", [False, True])
def test_frames_are_what_the_video_processor_makes_of_them(tmp_path: Path, name: str, nested: bool) -> None:
    images, size, layout, processor = CASES[name]
    images.save_pretrained(tmp_path)
    settings = VIDEO | size
    if nested:
        (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": settings}))
        settings = {"image_mean": [9, 9, 9]}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings))
    video = noise_video(1, (60, 40), 2)
    ours = [piece.inputs["pixel_values"][0] for piece in load_videos(tmp_path, layout)(video).pieces]
    made = processor(list(video.frames), return_tensors="np")
    expected = made["pixel_values_images" if "pixel_values_images" in made else "pixel_values"]
    np.testing.assert_allclose(np.stack(ours), np.reshape(expected, (2, 3, SIDE, SIDE)), atol=1e-5)
