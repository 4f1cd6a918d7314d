"""Baselines against what they say they are: means of neighbours, and the stock model on a resized image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastv_calib.measurement.sweep import Sweep
from fastv_calib.samples.baselines import grid_within, pooled, smaller, tower_share
from fastv_calib.samples.inputs import InputMaker
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model
from tests.calib.test_sweep import QUESTION, close, with_answer
from tests.conftest import noise_image
from tests.families.rows import ROWS


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.02, 0.98))
def test_smaller_grids(rows: int, columns: int, keep: float) -> None:
    height, width = grid_within(rows, columns, keep)
    assert 1 <= height <= rows and 1 <= width <= columns
    wanted = max(1, keep * rows * columns)
    assert 0.5 <= height * width / wanted <= 2


def test_a_quarter_is_two_by_two() -> None:
    assert grid_within(12, 12, 0.25) == (6, 6)
    assert grid_within(12, 12, 0.5) in ((8, 9), (9, 8))  # 72 of 144


def test_pooled_tokens_are_means_at_the_middle(tiny_llava: Path) -> None:
    """12 x 12 tokens to 6 x 6: torch's own average pooling, text and positions as they were."""
    family = FAMILIES["llava"]
    model = load_model(tiny_llava, family)
    maker = InputMaker(Checkpoint(tiny_llava), family, model)
    visuals = maker.visuals([noise_image(0)])
    whole = maker.of(visuals, QUESTION)
    found = pooled(whole, maker.grids(visuals, QUESTION), 0.25)
    assert int(found.visual.sum()) == 36
    image = whole.embedded[0, whole.visual].T.reshape(1, -1, 12, 12)
    expected = torch.nn.functional.avg_pool2d(image, 2)[0].flatten(1).T
    close(found.embedded[0, found.visual], expected)
    assert torch.equal(found.embedded[0, ~found.visual], whole.embedded[0, ~whole.visual])
    assert torch.equal(found.position_ids[..., ~found.visual], whole.position_ids[..., ~whole.visual])
    first = int(whole.visual.nonzero()[0])
    places = found.position_ids[0, 0, found.visual].reshape(6, 6) - first
    # Of rows 0 and 1 and columns 0 and 1 the second token in raster order.
    np.testing.assert_array_equal(places, 12 * np.arange(0, 12, 2)[:, None] + np.arange(1, 12, 2))


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_next-mistral"])
def test_pooling_goes_through_every_layout(name: str, tmp_path: Path) -> None:
    """Deepstack is pooled with the tokens it is added to; what ends a row of tiles has no place, and stays."""
    row = next(row for row in ROWS if str(row) == name)
    row.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES[row.model_type]
    maker = InputMaker(checkpoint, family, load_model(checkpoint.path, family), row.options.get("image_tokens"))
    visuals = maker.visuals([noise_image(0, (48, 40))])
    whole, grids = maker.of(visuals, QUESTION), maker.grids(visuals, QUESTION)
    found = pooled(whole, grids, 0.25)
    left = int(whole.visual.sum()) - sum(int((grid >= 0).sum()) for grid in grids)
    bins = sum(np.prod(grid_within(*grid.shape, 0.25)) for grid in grids)
    assert int(found.visual.sum()) == left + bins < int(whole.visual.sum())
    assert all(rows.shape == found.embedded.shape for rows in found.deepstack)
    for before, after in zip(whole.deepstack, found.deepstack, strict=True):
        assert float(after.abs().max()) > 0
        assert not after[0, ~found.visual].any()
        # The first bin, in the corner of the first grid.
        height, width = grids[0].shape
        rows, columns = grid_within(height, width, 0.25)
        corner = grids[0][: height // rows, : width // columns].reshape(-1)
        close(after[0, found.visual][0], before[0, whole.visual][corner].mean(0))


def test_a_smaller_image_is_the_stock_model_on_fewer_tokens(tmp_path: Path) -> None:
    row = next(row for row in ROWS if str(row) == "qwen2_vl")
    row.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES[row.model_type]
    stock, model = (load_model(checkpoint.path, family) for _ in range(2))
    maker = InputMaker(checkpoint, family, model, 64)
    images = [noise_image(0, (64, 48))]
    visuals = maker.visuals(images)
    resized = smaller(maker, images, visuals, 0.25)
    assert [visuals[0].tokens, resized[0].tokens] == [48, 12] and tower_share(resized, visuals) == 0.25
    (grid,) = maker.grids(resized, QUESTION)
    inputs = maker.of(resized, QUESTION)
    sweep = Sweep(family.decoder(model), family.head(model), {})
    tokens = [5, 6, 7]
    (found,) = sweep.chains(sweep.begun(inputs, tokens), [()])
    # What a user would do: resize the image. 12 tokens of 8 pixels a side are 4 x 3.
    by_hand = [images[0].resize((32, 24), Image.Resampling.BICUBIC)]
    given = with_answer(row.inputs(checkpoint.path, by_hand, QUESTION), torch.tensor(tokens[:-1]))
    assert given["image_grid_thw"].tolist() == [[1, *(2 * side for side in grid.shape)]]
    with torch.no_grad():
        expected = stock(**given).logits[0, -3:]
    close(found.logits, expected, 0.05)  # the processor resizes from the original, we from what we resized


def test_a_family_of_tiles_has_one_tile_at_least(tmp_path: Path) -> None:
    row = next(row for row in ROWS if str(row) == "internvl")
    row.write(tmp_path / "checkpoint")
    checkpoint, family = Checkpoint(tmp_path / "checkpoint"), FAMILIES[row.model_type]
    maker = InputMaker(checkpoint, family, load_model(checkpoint.path, family))
    images = [noise_image(0, (300, 100))]
    visuals = maker.visuals(images)
    counts = [smaller(maker, images, visuals, keep)[0].tokens for keep in (0.99, 0.5, 0.01)]
    assert visuals[0].tokens > counts[0] >= counts[1] > counts[2] == maker.preparation.vision.side**2  # type: ignore[union-attr]
