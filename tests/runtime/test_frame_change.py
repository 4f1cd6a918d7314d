"""How much of a video is new: by hand, by a plain loop, and in a prompt with images, text and two runs of a video."""

from __future__ import annotations

import numpy as np
import pytest

from fastv_runtime.config.base import DType
from fastv_runtime.memory.buffers import Buffer, HostMemory
from fastv_runtime.memory.layout import Region
from fastv_runtime.preprocessing.videos.change import frame_change, prompt_change
from fastv_runtime.preprocessing.visual import GraphRun, Piece, Visual


def visual(kind: str, frames: int, *text: str | GraphRun) -> Visual:
    return Visual(kind=kind, graph="vision", pieces=(Piece({}, 1),) * frames, text=text, views=list)  # type: ignore[arg-type]


def buffer(values: np.ndarray, dtype: DType = "float32") -> Buffer:
    region = Region(0, dtype, values.shape)
    made = Buffer(HostMemory.allocate(region.nbytes), region)
    made.write(values)
    return made


def test_a_token_is_compared_with_the_same_place_one_frame_before() -> None:
    features = np.asarray([[1, 0], [0, 2], [3, 0], [2, 0], [-1, 0], [1, 1]], np.float32)
    # Two tokens a frame: the same, another; opposite, half way.
    np.testing.assert_allclose(frame_change(features, 2), [1, 1, 0, 1, 2, 1 - np.sqrt(0.5)], atol=1e-6)


def test_a_newline_after_the_last_frame_and_features_of_zero_are_new() -> None:
    np.testing.assert_array_equal(frame_change(np.ones((5, 3), np.float32), 2)[[0, 1, 4]], 1)
    np.testing.assert_array_equal(frame_change(np.zeros((4, 3), np.float32), 2), 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_of_a_prompt_text_is_0_and_images_and_first_frames_are_1(dtype: DType) -> None:
    random = np.random.default_rng(0)
    rows = random.integers(-3, 4, (1, 20, 4)).astype(np.float32)  # numbers that every type holds
    bits = (rows.view(np.uint32) >> 16).astype(np.uint16)
    image = visual("image", 1, GraphRun(3))
    steps = visual("video", 3, "0 s", GraphRun(2), "1 s", GraphRun(2), "2 s", GraphRun(2))
    whole = visual("video", 2, GraphRun(5))  # two frames of two tokens, and a newline
    change = prompt_change(
        buffer(bits if dtype == "bfloat16" else rows, dtype), [whole, image, steps], [[14], [1], [5, 8, 11]], 20
    )

    def new(now: int, before: int) -> float:
        a, b = rows[0, now].astype(np.float64), rows[0, before].astype(np.float64)
        return 1 - a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)

    expected = np.zeros(20)
    expected[[1, 2, 3, 5, 6, 14, 15, 18]] = 1
    for now, before in ((8, 5), (9, 6), (11, 8), (12, 9), (16, 14), (17, 15)):
        expected[now] = new(now, before)
    np.testing.assert_allclose(change, expected, atol=1e-6)
    assert change.dtype == np.float32
