"""Videos that are large, damaged or odd: fewer pixels and a note, or one clear line."""

from __future__ import annotations

import gc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastv_runtime import UserError
from fastv_runtime.preprocessing.images import super_image as grids
from fastv_runtime.preprocessing.images.limits import reduction
from fastv_runtime.preprocessing.images.super_image import super_image
from fastv_runtime.preprocessing.videos import decoding
from fastv_runtime.preprocessing.videos.decoding import open_video
from tests.conftest import noise_image
from tests.runtime.test_video import FAST_START, HEIGHT, MATROSKA, WIDTH, coded_index, flat_frames, video

AVI = video("avi", "mpeg4", flat_frames(4))
SOURCES = {"mp4": FAST_START, "matroska": MATROSKA, "avi": AVI, "gif": video("gif", "gif", flat_frames(3), "gray")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "video.mp4"
    file.write_bytes(FAST_START)
    return file


def test_usual_frames_keep_their_size(path: Path) -> None:
    opened = open_video(path, 16)
    assert {frame.size for frame in opened.frames} == {(WIDTH, HEIGHT)}
    assert opened.notes == ()
    # 16 frames of full HD and 4 of 4K are usual.
    for width, height, frames in ((1920, 1080, 16), (3840, 2160, 4)):
        most = min(decoding.EXACT_FRAME_PIXELS, decoding.EXACT_SAMPLED_PIXELS // frames)
        assert reduction(width, height, most) == 1


def test_too_many_pixels_together_are_reduced_and_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "EXACT_SAMPLED_PIXELS", 5 * WIDTH * HEIGHT)
    opened = open_video(path, 10)
    assert {frame.size for frame in opened.frames} == {(WIDTH // 2, HEIGHT // 2)}
    assert [coded_index(frame) for frame in opened.frames] == list(opened.indices)
    size = f"{WIDTH // 2} x {HEIGHT // 2}"
    assert opened.notes == (f"{path}: 10 frames reduced to {size} pixels each, so that they fit into memory",)
    assert open_video(path, 5).notes == ()


def test_reduced_frames_are_averages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = np.asarray(noise_image(5, (WIDTH, HEIGHT)).convert("L").convert("RGB"))
    path.write_bytes(video("mp4", "mpeg4", [scene]))
    (whole,) = open_video(path, 1).frames
    monkeypatch.setattr(decoding, "EXACT_FRAME_PIXELS", WIDTH * HEIGHT // 4)
    (reduced,) = open_video(path, 1).frames
    np.testing.assert_allclose(np.asarray(reduced).astype(int), np.asarray(whole.reduce(2)).astype(int), atol=6)


def test_frames_that_are_no_longer_needed_are_freed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_FREED_PIXELS", 3 * WIDTH * HEIGHT)
    gc.freeze()  # what is there already: looking through it takes seconds
    gc.disable()  # or the collector may come by itself
    try:
        open_video(path, 20)
        assert sum(type(each) is av.VideoFrame for each in gc.get_objects()) < 10
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_number_of_frames_that_no_machine_can_hold_is_refused(path: Path) -> None:
    data = video("matroska", "mpeg4", [flat_frames(1)[0][:2, :2]] * 3)
    path.write_bytes(data)
    assert open_video(path, 10**12).total == 3
    with pytest.raises(UserError, match="200000 frames of 2 x 2 pixels, the limit is"):
        decoding._check_size(path, 2, 2, 200_000)


def test_a_grid_of_large_frames_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "reduction", lambda width, height: reduction(width, height, 30 * 20))
    frames = [noise_image(seed, (20, 20)) for seed in range(6)]
    sheet = super_image(frames, 2, 3)
    assert sheet.size == (30, 20)
    np.testing.assert_array_equal(np.asarray(sheet.crop((20, 10, 30, 20))), np.asarray(frames[5].reduce(2)))


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odd"), MemoryError(), AssertionError("odd\nlines")])
def test_whatever_the_decoder_raises_is_one_line(error: Exception, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Image.Image:
        raise error

    monkeypatch.setattr(decoding, "_upright", broken)
    with pytest.raises(UserError, match=r"video\.mp4: the video is cut off or damaged") as caught:
        open_video(path, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", SOURCES)
@settings(max_examples=25)
@given(st.data())
def test_damaged_videos_are_opened_or_refused(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(SOURCES[kind])
    places = st.integers(0, len(damaged) - 1) | st.integers(0, min(len(damaged), 800) - 1)
    for place in data.draw(st.lists(places, max_size=6), "bytes that are changed"):
        damaged[place] ^= data.draw(st.sampled_from([1, 0x80, 0xFF]) | st.integers(1, 255))
    cut = data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)), "what is left")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "video"
        file.write_bytes(damaged[:cut])
        try:
            opened = open_video(file, 3)
        except UserError as error:
            assert "\n" not in str(error)
            assert str(file) in str(error)
        else:
            assert 1 <= len(opened.frames) == len(opened.indices) == len(opened.timestamps) <= 3
            assert {frame.mode for frame in opened.frames} == {"RGB"}
