"""Images and videos as patches: what transformers' processors make of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize
from transformers.video_utils import VideoMetadata

from fastv_runtime.config.layouts import PatchesVideo, PatchesVision
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing import GraphRun, load_images, load_videos
from tests.conftest import noise_image

TOKEN = 8 * 8
"""Pixels of a visual token."""
VISION = PatchesVision(channels=3, patch=4, frames_per_patch=2, merge=2, max_tokens=40)
TEXT = ("<{seconds} seconds>", "|")


@dataclass(frozen=True)
class Clip:
    """As much of a video as the layout reads."""

    frames: tuple[Image.Image, ...]
    timestamps: tuple[float, ...]
    indices: tuple[int, ...]
    total: int
    fps: float | None


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    processor(6, 60).save_pretrained(tmp_path)
    return tmp_path


def processor(least: int, most: int, **settings: Any) -> Qwen2VLImageProcessorPil:
    size = {"shortest_edge": least * TOKEN, "longest_edge": most * TOKEN}
    return Qwen2VLImageProcessorPil(size=size, patch_size=4, **settings)


def clip(count: int, size: tuple[int, int] = (40, 24), spacing: float = 0.5, step: int = 1) -> Clip:
    """`count` frames, of which every `step`-th is taken; `spacing` seconds lie between those."""
    return Clip(
        tuple(noise_image(index, size) for index in range(count)),
        tuple(index * spacing for index in range(count)),
        tuple(range(0, step * count, step)),
        total=step * (count - 1) + 1,
        fps=step / spacing,
    )


@pytest.mark.parametrize("size", [(56, 40), (104, 24), (9, 12), (300, 200), (40, 41)])
def test_a_image_is_what_the_processor_makes_of_it(directory: Path, size: tuple[int, int]) -> None:
    image = noise_image(1, size)
    visual = load_images(directory, VISION)(image)
    expected = processor(6, 40)(images=image, return_tensors="np")
    ((piece,), (run,)) = visual.pieces, visual.runs
    np.testing.assert_array_equal(piece.inputs["pixel_values"], expected["pixel_values"])
    assert run.grid is not None
    assert [1, *(2 * side for side in run.grid[1:])] == expected["image_grid_thw"][0].tolist()
    assert run.tokens == piece.rows == visual.tokens <= VISION.max_tokens
    (view,) = visual.views()
    assert view.tokens.shape == run.grid[1:]
    assert view.image.size == (8 * run.grid[2], 8 * run.grid[1])


def test_a_bundle_that_bears_less_scales_down(directory: Path) -> None:
    image = noise_image(1, (160, 160))
    sizes = [
        load_images(directory, VISION.model_copy(update={"max_tokens": most}))(image).tokens for most in (2, 9, 16, 99)
    ]
    assert sizes == [1, 9, 16, 49]  # 7 x 7 are the most that the processor's own 60 allow


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1000, 4), "aspect ratio.*crop it"),
        ((1, 90), "needs 24 visual tokens.*16 are supported.*larger `export.image_tokens`"),
    ],
)
def test_slivers_are_refused(directory: Path, size: tuple[int, int], message: str) -> None:
    images = load_images(directory, VISION.model_copy(update={"max_tokens": 16}))
    with pytest.raises(UserError, match=message):
        images(noise_image(0, size))


def test_a_processor_of_another_model_is_refused(directory: Path) -> None:
    for change in ({"patch": 8}, {"merge": 4}):
        with pytest.raises(UserError, match="do not belong together"):
            load_images(directory, VISION.model_copy(update=change))(noise_image(0, (40, 24)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_video_is_patched_as_by_transformers(directory: Path, count: int) -> None:
    """Frames in pairs, the last repeated when it is alone."""
    video = clip(count)
    visual = load_videos(directory, PatchesVideo(frames=8, image=VISION))(video)
    pixels = Qwen2VLImageProcessorPil(do_resize=False)  # rescaled and normalised, as the video processor does
    frames = [_unpatched(pixels, frame) for frame in video.frames]
    expected, steps, rows, columns = Qwen3VLVideoProcessor.patchify(None, torch.tensor(np.stack(frames))[None], 4, 2, 2)
    assert (rows, columns) == (6, 10)
    values = np.concatenate([piece.inputs["pixel_values"] for piece in visual.pieces])
    np.testing.assert_allclose(values, expected[0].numpy(), atol=1e-6)
    assert visual.text == (GraphRun(steps * 15, (steps, 3, 5), 1.0),)
    assert [view.tokens[0, 0] for view in visual.views()] == [15 * step for step in range(steps)]


def _unpatched(normal: Qwen2VLImageProcessorPil, frame: Image.Image) -> np.ndarray:
    values = np.asarray(frame, np.float32).transpose(2, 0, 1) / 255
    mean, deviation = (np.asarray(each, np.float32)[:, None, None] for each in (normal.image_mean, normal.image_std))
    return (values - mean) / deviation


@pytest.mark.parametrize("spacing", [0.5, 1.37])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_time_steps_are_told_apart_by_text(directory: Path, count: int, spacing: float) -> None:
    visual = load_videos(directory, PatchesVideo(frames=8, image=VISION, step_text=TEXT))(
        clip(count, (40, 24), spacing)
    )
    seconds = Qwen3VLProcessor._calculate_timestamps(None, list(range(count)), 1 / spacing, 2)
    text: tuple[str | GraphRun, ...] = ()
    for each in seconds:
        text += (f"<{each:.1f} seconds>", GraphRun(15, (1, 3, 5)), "|")
    assert visual.text == text
    assert len(visual.pieces) == len(seconds)


@pytest.mark.parametrize(("count", "step"), [(6, 1), (4, 5), (2, 9)])
def test_the_time_axis_counts_by_the_frame_rate_of_the_sample(directory: Path, count: int, step: int) -> None:
    """Qwen2.5-VL: tokens_per_second times `second_per_grid_ts`."""
    videos = load_videos(directory, PatchesVideo(frames=8, image=VISION, ticks_per_second=4))
    for fps in (2.5, None):
        video = replace(clip(count, step=step), fps=fps)
        metadata = VideoMetadata(total_num_frames=video.total, fps=fps, frames_indices=list(video.indices))
        expected = 2 / (24 if fps is None else metadata.sampled_fps)
        assert videos(video).runs[0].interval == pytest.approx(4 * expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("size", [(200, 120), (16, 16), (5, 40)])
def test_limits_of_a_clip_are_shared_by_its_frames(directory: Path, count: int, size: tuple[int, int]) -> None:
    """Qwen3-VL's processor limits all frames together."""
    limits = {"shortest_edge": 24 * TOKEN, "longest_edge": 90 * TOKEN}
    (directory / "video_preprocessor_config.json").write_text(json.dumps({"size": limits}))
    videos = load_videos(
        directory, PatchesVideo(frames=8, image=VISION.model_copy(update={"max_tokens": 60}), clip_limits=True)
    )
    height, width = smart_resize(
        count, size[1], size[0], factor=8, min_pixels=limits["shortest_edge"], max_pixels=limits["longest_edge"]
    )
    (run,) = videos(clip(count, size)).runs
    assert run.grid == (-(-count // 2), height // 8, width // 8)
