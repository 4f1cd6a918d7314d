"""Images of any shape through every layout: what the graphs take and what can be drawn, or one clear line."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastv_runtime import UserError
from fastv_runtime.config.layouts import Vision
from fastv_runtime.generation.kept_image import draw_kept
from fastv_runtime.preprocessing import Images, Visual, load_images
from fastv_runtime.preprocessing.images.loading import as_image
from tests.conftest import noise_image
from tests.runtime.layouts import LAYOUTS, write_processor


@cache
def layout(name: str) -> tuple[Images, Vision]:
    with TemporaryDirectory() as folder:
        vision = write_processor(name, Path(folder))
        return load_images(Path(folder), vision), vision


def check(visual: Visual, vision: Vision) -> None:
    """All that a layout promises: inputs as the graph takes them, as many tokens as features, views of each."""
    for piece in visual.pieces:
        sizes: dict[str, int] = {}
        for spec in vision.inputs():
            value = piece.inputs[spec.name]
            assert value.dtype == spec.dtype
            for axis, length in zip(spec.shape, value.shape, strict=True):
                assert length == (sizes.setdefault(axis, length) if isinstance(axis, str) else axis)
        assert np.isfinite(piece.inputs["pixel_values"]).all()
    assert 0 < visual.tokens <= vision.tokens
    if visual.pack is None:
        assert visual.tokens == sum(piece.rows for piece in visual.pieces)
    else:
        assert visual.pack.index.max() <= sum(piece.rows for piece in visual.pieces)
    views = visual.views()
    assert max(view.tokens.max() for view in views) < visual.tokens
    assert draw_kept(views, [0]).mode == "RGB"


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=15)
@given(st.integers(1, 300), st.integers(1, 300))
@example(1, 1)
@example(1, 150)
@example(150, 1)
@example(1, 201)
@example(1, 5000)
@example(5000, 1)
def test_any_size_is_seen_or_refused(name: str, width: int, height: int) -> None:
    images, vision = layout(name)
    try:
        visual = images(noise_image(1, (width, height)))
    except UserError as error:
        assert name == "qwen"  # Qwen2-VL's image processor refuses slivers
        assert max(width, height) > 200 * min(width, height)
        assert f"{width} x {height}" in str(error)
        return
    check(visual, vision)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 30)])
def test_a_transparent_image_is_seen_by_the_colours_under_it(name: str, size: tuple[int, int]) -> None:
    images, vision = layout(name)
    opaque = noise_image(2, size)
    clear = opaque.copy()
    clear.putalpha(0)
    seen, expected = images(as_image(clear)), images(opaque)
    check(seen, vision)
    for piece, other in zip(seen.pieces, expected.pieces, strict=True):
        np.testing.assert_array_equal(piece.inputs["pixel_values"], other.inputs["pixel_values"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_long_line_of_pixels_is_seen_or_refused(name: str) -> None:
    images, vision = layout(name)
    line = Image.new("RGB", (1, 60_000), "white")
    if name == "qwen":
        with pytest.raises(UserError, match=r"an image of 1 x 60000 pixels: .*aspect ratio.*: crop it"):
            images(line)
        return
    check(images(line), vision)
