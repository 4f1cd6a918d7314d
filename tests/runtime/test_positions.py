"""Position ids of whole prompts, as the rope index of each model in transformers has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForImageTextToText

from fastv_runtime.generation.prompts.positions import position_ids
from fastv_runtime.preprocessing import GraphRun

TEXT, IMAGE, VIDEO = 0, 1, 2
MERGE = 2
sides = st.integers(1, 9)
texts = st.integers(1, 7)
visuals = st.lists(
    st.tuples(st.sampled_from([IMAGE, VIDEO]), st.integers(1, 5), sides, sides, st.floats(0.01, 9.0), texts), max_size=4
)


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def model(request: pytest.FixtureRequest) -> Any:
    config = AutoConfig.for_model(request.param)
    config.vision_config.spatial_merge_size = MERGE
    with torch.device("meta"):
        config.text_config.num_hidden_layers = config.vision_config.depth = 1
        return AutoModelForImageTextToText.from_config(config).model


@given(before=texts, visuals=visuals)
def test_positions_are_those_of_the_rope_index(model: Any, before: int, visuals: list[tuple[Any, ...]]) -> None:
    """Text, then visuals with text after each; a video's time steps are one run, or runs of their own in Qwen3-VL."""
    family = model.config.model_type
    kinds = [TEXT] * before
    runs: list[tuple[int, GraphRun]] = []
    image_grids, video_grids, seconds = [], [], []
    for kind, steps, rows, columns, step_seconds, after in visuals:
        steps = steps if kind == VIDEO else 1
        (video_grids if kind == VIDEO else image_grids).append([steps, rows * MERGE, columns * MERGE])
        seconds += [step_seconds] if kind == VIDEO else []
        interval = 1.0
        if family == "qwen2_5_vl" and kind == VIDEO:
            interval = model.config.vision_config.tokens_per_second * step_seconds
        for count in [1] * steps if family == "qwen3_vl" else [steps]:
            runs.append((len(kinds), GraphRun(count * rows * columns, (count, rows, columns), interval)))
            kinds += [kind] * count * rows * columns + [TEXT] * after
    expected, deltas = model.get_rope_index(
        torch.zeros(1, len(kinds), dtype=torch.int64),
        mm_token_type_ids=torch.tensor([kinds]),
        image_grid_thw=torch.tensor(image_grids) if image_grids else None,
        video_grid_thw=torch.tensor(video_grids) if video_grids else None,
        second_per_grid_ts=seconds or None,
    )
    positions = position_ids(3, len(kinds), runs)
    np.testing.assert_array_equal(positions, expected[:, 0].numpy())
    assert positions.max() + 1 == len(kinds) + int(deltas)  # where decoding goes on


def test_one_axis_counts_tokens() -> None:
    np.testing.assert_array_equal(position_ids(1, 5, [(1, GraphRun(3))]), [[0, 1, 2, 3, 4]])
