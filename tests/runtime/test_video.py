"""Frames come from where they should, the right way up; files that are no videos get one clear line."""

from __future__ import annotations

import io
import struct
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastv_runtime import UserError
from fastv_runtime.preprocessing.videos.decoding import MAX_SAMPLED_PIXELS, open_video, uniform_indices
from tests.runtime.test_images import encoded

WIDTH, HEIGHT, FPS = 64, 48, 10
STEP = 10
"""Grey levels between one frame and the next: far more than a codec's error on a flat image."""


def flat_frames(count: int) -> list[np.ndarray]:
    return [np.full((HEIGHT, WIDTH, 3), index * STEP, np.uint8) for index in range(count)]


def coded_index(frame: Image.Image) -> int:
    """Which of `flat_frames` this is."""
    return round(float(np.asarray(frame).mean()) / STEP)


def video(
    container: str, codec: str, frames: list[np.ndarray], pixels: str = "yuv420p", options: dict[str, str] | None = None
) -> bytes:
    """A small video file."""
    with TemporaryDirectory() as folder:  # a header in front takes a second pass, which needs a name
        path = Path(folder) / "video"
        with av.open(path, "w", format=container, container_options=options or {}) as file:
            stream = file.add_stream(codec, rate=FPS)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pixels
            for frame in frames:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            file.mux(stream.encode())
        return path.read_bytes()


def sound(cover: bool = False) -> bytes:
    """An MP4 file of one second of silence, with a cover image if wanted."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=8000)
        image = file.add_stream("mjpeg", rate=1) if cover else None
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", layout="mono")
        samples.rate = 8000
        if image is not None:
            image.width, image.height, image.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            image.disposition = av.stream.Disposition.attached_pic.value  # its setter wants a number before PyAV 18
            file.mux(image.encode(av.VideoFrame.from_ndarray(flat_frames(1)[0], "rgb24")))
            file.mux(image.encode())
        file.mux(stream.encode(samples))
        file.mux(stream.encode())
    return buffer.getvalue()


def claim_avi(width: int, height: int) -> bytes:
    """An uncompressed AVI of a few frames that claims to be `width` x `height`."""
    data = video("avi", "rawvideo", flat_frames(2))
    return data.replace(struct.pack("<II", WIDTH, HEIGHT), struct.pack("<II", width, height))


def cut_in_the_data(data: bytes, share: float) -> bytes:
    """An MP4 file with its header in front, of whose data only a share is left."""
    start = data.index(b"mdat") + 4
    return data[: start + round((len(data) - start) * share)]


FAST_START = video("mp4", "mpeg4", flat_frames(20), options={"movflags": "faststart"})

MATROSKA = video("matroska", "mpeg4", flat_frames(4))

BAD_VIDEOS: dict[str, tuple[bytes, str]] = {
    "empty.mp4": (b"", "the file is empty"),
    "text.mp4": (b"this is a text file with a video's name", "not a video in a known format"),
    "noise.mp4": (np.random.default_rng(0).bytes(4000), "not a video in a known format"),
    "truncated.mp4": (video("mp4", "mpeg4", flat_frames(4))[:-200], "not a video in a known format, or cut off"),
    "header-only.mp4": (cut_in_the_data(FAST_START, 0), "no decodable frame"),
    "no-frame.mkv": (MATROSKA[: MATROSKA.index(b"\x1f\x43\xb6\x75") + 20], "no decodable frame"),  # a Cluster begins
    "sound.mp4": (sound(), "no video stream"),
    "sound-with-cover.m4a": (sound(cover=True), "no video stream"),
    "subtitles.mp4": (b"1\n00:00:00,000 --> 00:00:02,000\nhello\n\n", "no video stream"),
    "image.mp4": (encoded(Image.new("RGB", (64, 48)), "PNG"), "an image file, not a video: give it with "),
    "image.jpg": (encoded(Image.new("RGB", (64, 48)), "JPEG"), "an image file, not a video: give it with "),
    "unknown-codec.avi": (video("avi", "rawvideo", flat_frames(2)).replace(b"I420", b"ZZZZ"), "cannot decode"),
    "large.avi": (claim_avi(12000, 9000), "12000 x 9000 pixels, the limit is 16,000,000"),
}


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_a_bad_video_gets_one_clear_line(name: str, tmp_path: Path) -> None:
    data, message = BAD_VIDEOS[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        open_video(path, 2)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_a_playlist_opens_no_other_file(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.ts").write_bytes(video("mpegts", "mpeg4", flat_frames(4)))
    Path("playlist.mp4").write_text(text.format("other.ts"))
    with pytest.raises(UserError, match="not a video in a known format"):
        open_video("playlist.mp4", 2)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such video"):
        open_video(tmp_path / "missing.mp4", 2)
    with pytest.raises(UserError, match="not a file"):
        open_video(tmp_path, 2)


@pytest.mark.parametrize("frames", [0, -1])
def test_no_frames_at_all_is_refused(frames: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"`frames` {frames}: must be at least 1"):
        open_video(tmp_path / "missing.mp4", frames)


def test_without_pyav_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(FAST_START)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"av is not installed: pip install -e '\.\[video\]'"):
        open_video(path, 2)


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("mp4", "mpeg4", "yuv420p"),
        ("mp4", "libx264", "yuv420p"),  # with B-frames: packets are not in time order
        ("avi", "mpeg4", "yuv420p"),
        ("gif", "gif", "gray"),
        # These do not say how many frames they have.
        ("matroska", "libx264", "yuv420p"),
        ("webm", "libvpx", "yuv420p"),
        ("mpegts", "libx264", "yuv420p"),  # whose clock does not begin at zero
    ],
)
def test_frames_are_those_of_the_indices(container: str, codec: str, pixels: str, tmp_path: Path) -> None:
    path = tmp_path / "video"
    path.write_bytes(video(container, codec, flat_frames(21), pixels))
    opened = open_video(path, 6)
    assert opened.indices == (0, 4, 8, 12, 16, 20)
    assert [coded_index(frame) for frame in opened.frames] == list(opened.indices)
    assert {(frame.mode, frame.size) for frame in opened.frames} == {("RGB", (WIDTH, HEIGHT))}
    assert opened.timestamps == (0.0, 0.4, 0.8, 1.2, 1.6, 2.0)
    assert (opened.total, opened.duration, opened.fps, opened.notes) == (21, 2.1, 10.0, ())


def test_a_bare_stream_without_times_is_timed_by_its_rate(tmp_path: Path) -> None:
    path = tmp_path / "video.h264"
    path.write_bytes(video("h264", "libx264", flat_frames(5)))
    opened = open_video(path, 2)
    assert opened.fps == 25  # FFmpeg's assumption where nothing is said
    assert opened.timestamps == (0.0, 4 / 25)


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(video("mp4", "libx264", [np.full((HEIGHT, WIDTH, 3), (200, 90, 30), np.uint8)], "yuv444p"))
    colour = np.asarray(open_video(path, 1).frames[0], int).mean((0, 1))
    np.testing.assert_allclose(colour, (200, 90, 30), atol=4)


def test_more_frames_than_there_are_are_taken_once_and_said(tmp_path: Path) -> None:
    path = tmp_path / "video.mkv"
    path.write_bytes(video("matroska", "mpeg4", flat_frames(3)))
    opened = open_video(path, 8)
    assert opened.indices == (0, 1, 2)
    assert [coded_index(frame) for frame in opened.frames] == [0, 1, 2]
    assert opened.notes == (f"{path}: 8 frames were asked for and the video has 3: each is taken once",)


def test_a_video_that_ends_early_is_sampled_over_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(cut_in_the_data(FAST_START, 0.7))
    opened = open_video(path, 4)
    assert 4 < opened.total < 20
    assert opened.indices == tuple(uniform_indices(opened.total, 4))
    assert [coded_index(frame) for frame in opened.frames[:-1]] == list(opened.indices[:-1])  # the last one is damaged


def test_packets_that_cannot_be_decoded_are_said(tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    pieces = video("avi", "png", flat_frames(6), "rgb24").split(b"IHDR")  # every frame is a PNG
    assert len(pieces) == 7
    pieces[3] = bytes(4) + pieces[3][4:]  # the third has no width
    path.write_bytes(b"IHDR".join(pieces))
    opened = open_video(path, 2)
    assert opened.total == 5
    assert [coded_index(frame) for frame in opened.frames] == [0, 5]
    assert opened.notes == (f"{path}: cut off or damaged, packets that could not be decoded: 1",)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "frame-%03d.png"
    path.write_bytes(FAST_START)
    assert open_video(path, 2).total == 20


def test_a_sample_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    frames = 100
    data = video("avi", "rawvideo", [flat_frames(1)[0][:2, :2]] * frames)
    path.write_bytes(data.replace(struct.pack("<II", 2, 2), struct.pack("<II", 4000, 3000)))
    with pytest.raises(UserError, match=f"100 frames of 4000 x 3000 pixels, the limit is {MAX_SAMPLED_PIXELS:,}"):
        open_video(path, 200)


SIGNS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
ORIENTATIONS = [(a, 0, 0, d) for a, d in SIGNS] + [(0, b, c, 0) for b, c in SIGNS]


@pytest.mark.parametrize("linear", ORIENTATIONS)
def test_frames_are_turned_and_mirrored_as_the_display_matrix_says(
    linear: tuple[int, int, int, int], tmp_path: Path
) -> None:
    scene = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    scene[:16, :24] = 255  # one corner, so that no two of the eight orientations look alike
    upright, path = tmp_path / "upright.mp4", tmp_path / "turned.mp4"
    upright.write_bytes(video("mp4", "mpeg4", [scene]))
    path.write_bytes(with_matrix(upright.read_bytes(), linear))
    np.testing.assert_array_equal(
        np.asarray(open_video(path, 1).frames[0]), moved(np.asarray(open_video(upright, 1).frames[0]), linear)
    )


def test_an_angle_between_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tilted.mp4"
    path.write_bytes(with_matrix(video("mp4", "mpeg4", flat_frames(1)), (0.9, 0.5, -0.5, 0.9)))
    assert open_video(path, 1).frames[0].size == (WIDTH, HEIGHT)


def with_matrix(data: bytes, linear: tuple[float, float, float, float]) -> bytes:
    """An MP4 file with (a, b, c, d) in its track header, as a phone writes it. ISO/IEC 14496-12, 8.3.2."""
    a, b, c, d = (round(value * 65536) for value in linear)
    start = data.index(b"tkhd") + 4 + 40
    return data[:start] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[start + 36 :]


def moved(image: np.ndarray, linear: tuple[int, int, int, int]) -> np.ndarray:
    """Every pixel (p, q) at (a p + c q, b p + d q), shifted back into view: the matrix's definition."""
    a, b, c, d = linear
    q, p = np.indices(image.shape[:2])
    x, y = a * p + c * q, b * p + d * q
    x, y = x - x.min(), y - y.min()
    result = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    result[y, x] = image
    return result


@given(st.integers(1, 100_000), st.integers(1, 1000))
def test_indices_are_ascending_and_evenly_spread(total: int, count: int) -> None:
    indices = uniform_indices(total, count)
    assert len(indices) == min(total, count)
    assert all(first < second for first, second in pairwise(indices))
    assert indices[0] == 0
    if len(indices) > 1:
        assert indices[-1] == total - 1
        spacing = (total - 1) / (len(indices) - 1)
        assert all(abs(index - place * spacing) <= 0.5 + 1e-6 for place, index in enumerate(indices))
