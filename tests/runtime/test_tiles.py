from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)

from fastv_runtime.config.tile_layouts import TilesVision, TileText
from fastv_runtime.preprocessing import GraphRun, load_images
from fastv_runtime.preprocessing.images.tiles import tile_grid

TILE = 32
TEXT = TileText(start="<", tile="r{row}c{column}", row_end="/", tiles_end="|", whole="w", end=">")


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processor")
    GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}).save_pretrained(path)
    return path


def vision(patches: int) -> TilesVision:
    settings: dict[str, bool | int | dict[str, int]] = {"crop_to_patches": True, "max_patches": patches}
    return TilesVision(tile=TILE, side=2, max_tiles=patches + 1, settings=settings, text=TEXT)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 12))
def test_the_grid_is_the_image_processors(width: int, height: int, patches: int) -> None:
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, patches)
    assert tile_grid(rows * columns, width / height) == (rows, columns)


def test_text_stands_around_every_tile(processor: Path) -> None:
    visual = load_images(processor, vision(6))(Image.new("RGB", (90, 60)))
    run = GraphRun(4)
    first = ["r1c1", run, "r1c2", run, "r1c3", run, "/"]
    second = ["r2c1", run, "r2c2", run, "r2c3", run, "/"]
    assert visual.text == ("<", *first, *second, "|", "w", run, ">")
    assert visual.tokens == 28 == vision(6).tokens
    assert [piece.rows for piece in visual.pieces] == [4] * 7


def test_a_image_that_is_not_cut_is_the_whole_alone(processor: Path) -> None:
    visual = load_images(processor, vision(1))(Image.new("RGB", (90, 60)))
    assert visual.text == ("<", "w", GraphRun(4), ">")
    assert [view.tokens.tolist() for view in visual.views()] == [[[0, 1], [2, 3]]]


def test_views_show_where_each_token_is(processor: Path) -> None:
    image = Image.new("RGB", (80, 40))
    image.paste("white", (40, 0, 80, 40))
    whole, tiles = load_images(processor, vision(2))(image).views()
    assert whole.image.size == (TILE, TILE)
    assert whole.tokens.tolist() == [[8, 9], [10, 11]]
    assert tiles.tokens.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    grey = np.asarray(tiles.image.convert("L"))
    assert grey.shape == (TILE, 2 * TILE)
    assert grey[:, : TILE - 4].max() == 0
    assert grey[:, TILE + 4 :].min() == 255
