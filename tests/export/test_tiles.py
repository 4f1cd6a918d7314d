from __future__ import annotations

import pytest
from transformers import InternVLConfig

from fastv_export.families import FAMILIES
from fastv_runtime.errors import UserError

TILE = 256


@pytest.mark.parametrize(
    ("image_tokens", "most"), [(None, 13), (100 * TILE, 13), (13 * TILE, 13), (4 * TILE, 4), (3 * TILE, 3)]
)
def test_image_tokens_bound_the_tiles(image_tokens: int | None, most: int) -> None:
    assert FAMILIES["internvl"].vision(InternVLConfig(), image_tokens).tokens == most * TILE


def test_two_tiles_are_no_use_where_the_thumbnail_takes_one() -> None:
    vision = FAMILIES["internvl"].vision(InternVLConfig(), 2 * TILE)
    assert vision.tokens == TILE


def test_less_than_one_tile_is_refused() -> None:
    with pytest.raises(UserError, match="`image_tokens` 255: one tile of this model is 256 tokens: give 256 or more"):
        FAMILIES["internvl"].vision(InternVLConfig(), 255)
