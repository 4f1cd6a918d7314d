"""The packing of tiles and frames against transformers' own, on features that can be told apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CONFIG_MAPPING
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, image_size_to_num_patches
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from fastv_export.families import FAMILIES
from fastv_runtime.config.layouts import AnyresVision, PooledVideo
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.images.anyres import AnyresImages, pack_index
from fastv_runtime.preprocessing.videos.pooled import PooledVideos, pool_index
from fastv_runtime.preprocessing.visual import Pack

WIDTH = 3
NEXT = AnyresVision(tile=336, side=24, pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)))
ONEVISION = AnyresVision(
    tile=384,
    side=27,
    pinpoints=tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)),
    max_tiles=9,
)
SMALL = AnyresVision(tile=16, side=3, pinpoints=((16, 16), (16, 64), (48, 32), (80, 80)), max_tiles=2)
VISIONS = [NEXT, ONEVISION, SMALL]
SIDES = st.integers(1, 400) | st.integers(1, 6000)


@given(vision=st.sampled_from(VISIONS), height=SIDES, width=SIDES)
def test_a_image_is_packed_as_transformers_packs_it(vision: AnyresVision, height: int, width: int) -> None:
    expected, features, newline = stock_pack(vision, height, width)
    pack = pack_index(vision, height, width)
    assert pack.index.shape == pack.weight.shape == (len(expected), vision.packing)
    assert len(expected) <= vision.tokens
    np.testing.assert_allclose(packed(pack, features, newline), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("vision", "height", "width", "tokens"),
    [
        # Counted by hand: whole, rows of the unpadded grid x (columns + newline).
        (NEXT, 672, 672, 576 + 48 * 49),
        (NEXT, 300, 900, 576 + 24 * 73),
        (NEXT, 480, 640, 576 + 36 * 49),
        (ONEVISION, 384, 384, 729 + 27 * 28),
        (ONEVISION, 1152, 1152, 729 + 81 * 82),
        (ONEVISION, 2304, 2304, 729 + 81 * 82),  # shrunk from 162 x 162
    ],
)
def test_visual_tokens_by_size(vision: AnyresVision, height: int, width: int, tokens: int) -> None:
    assert len(pack_index(vision, height, width).index) == tokens


@pytest.mark.parametrize("vision", VISIONS)
def test_the_upper_bound_is_close(vision: AnyresVision) -> None:
    """Within 1%: it counts shapes on a pinpoint that another pinpoint would fit better."""
    sides = range(vision.tile // 8, max(map(max, vision.pinpoints)), max(2, vision.tile // 32))
    sizes = {(height, side) for height, _ in vision.pinpoints for side in sides}
    sizes |= {(side, width) for _, width in vision.pinpoints for side in sides}
    reached = max(len(pack_index(vision, *size).index) for size in sizes)
    assert vision.tokens / 1.01 <= reached <= vision.tokens


@given(side=st.integers(1, 30), frames=st.integers(1, 3))
def test_a_video_is_pooled_as_transformers_pools_it(side: int, frames: int) -> None:
    video = PooledVideo(frames=frames, tile=side * 14, side=side)
    features = torch.rand(frames, side**2, WIDTH)
    newline = torch.rand(WIDTH)
    stock = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=side, patch_size=1)))
    pooled = LlavaOnevisionModel.apply_pooling(stock, features)
    expected = torch.cat([pooled.flatten(0, 1), newline[None]]).numpy()
    pack = pool_index(video, frames)
    assert len(expected) == video.tokens
    np.testing.assert_allclose(packed(pack, features.flatten(0, 1), newline), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(300, 100), (50, 400), (500, 450)])
def test_views_show_the_whole_and_the_tiles_without_padding(tmp_path: Path, size: tuple[int, int]) -> None:
    vision = SMALL.model_copy(update={"pinpoints": ((32, 16), (16, 48), (48, 48))})
    processor = LlavaOnevisionImageProcessorPil(size={"height": vision.tile, "width": vision.tile})
    processor.save_pretrained(tmp_path)
    # Red left, blue right: padding would be black, and less than a row of features of it may stay.
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    visual = AnyresImages(tmp_path, vision)(image)
    whole, tiles = visual.views()
    np.testing.assert_array_equal(whole.tokens, np.arange(9).reshape(3, 3))
    rows, columns = tiles.tokens.shape
    newlines = 9 + columns + (columns + 1) * np.arange(rows)
    shown = np.concatenate([whole.tokens.ravel(), tiles.tokens.ravel(), newlines])
    assert sorted(shown) == list(range(visual.tokens))
    for view in (whole, tiles):
        second = view.image.height // len(view.tokens)
        assert view.image.getpixel((0, second)) == (255, 0, 0)
        assert view.image.getpixel((view.image.width - 1, view.image.height - 1 - second)) == (0, 0, 255)
    assert (tiles.image.width >= tiles.image.height) == (size[0] >= size[1])


def test_a_processor_of_another_tile_size_is_refused(tmp_path: Path) -> None:
    LlavaOnevisionImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="do not belong together"):
        AnyresImages(tmp_path, SMALL)(Image.new("RGB", (40, 30)))
    with pytest.raises(UserError, match="do not belong together"):
        PooledVideos(tmp_path, PooledVideo(frames=1, tile=16, side=3))(
            SimpleNamespace(frames=[Image.new("RGB", (40, 30))])
        )


def test_views_of_a_video_show_every_frame(tmp_path: Path) -> None:
    LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    visual = PooledVideos(tmp_path, PooledVideo(frames=8, tile=16, side=3))(SimpleNamespace(frames=frames))
    assert visual.tokens == 2 * 4 + 1
    views = visual.views()
    assert [view.tokens.tolist() for view in views] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert [view.image.getpixel((0, 0)) for view in views] == [(255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize("model_type", ["llava_next", "llava_onevision"])
def test_fewer_image_tokens_leave_out_large_pinpoints(model_type: str) -> None:
    family = FAMILIES[model_type]
    config = CONFIG_MAPPING[model_type]()
    whole = family.vision(config, None)
    least = min(map(whole.tokens_at, whole.pinpoints))
    for tokens in (least, 2000, 3000, whole.tokens):
        vision = family.vision(config, tokens)
        assert vision.tokens <= tokens
        assert set(vision.pinpoints) == {each for each in whole.pinpoints if whole.tokens_at(each) <= tokens}
    assert family.vision(config, whole.tokens) == whole
    with pytest.raises(UserError, match=f"`image_tokens` {least - 1}: .* give {least} or more"):
        family.vision(config, least - 1)


def stock_pack(vision: AnyresVision, height: int, width: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """transformers' packing, and the features [R, WIDTH] and newline that it was given."""
    pinpoints = [list(pinpoint) for pinpoint in vision.pinpoints]
    tiles = image_size_to_num_patches([height, width], pinpoints, vision.tile)
    features = torch.rand(tiles, vision.side**2, WIDTH)
    newline = torch.rand(WIDTH)
    tower = SimpleNamespace(image_size=vision.tile, patch_size=vision.tile // vision.side)
    stock = SimpleNamespace(config=SimpleNamespace(vision_config=tower, image_grid_pinpoints=pinpoints))
    if vision.max_tiles is None:
        packed, _ = LlavaNextModel.pack_image_features(stock, [features], [[height, width]], "default", newline)
    else:
        packed, _ = LlavaOnevisionModel.pack_image_features(
            stock, [features], [[height, width]], newline, f"anyres_max_{vision.max_tiles}"
        )
    return packed[0].numpy(), features.flatten(0, 1), newline


def packed(pack: Pack, features: torch.Tensor, newline: torch.Tensor) -> np.ndarray:
    """What the graph `pack` computes."""
    rows = torch.cat([features, newline[None]]).numpy()
    return (rows[pack.index] * pack.weight[..., None]).sum(1)
