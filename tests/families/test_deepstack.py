"""Features of deeper tower layers, added after the first decoder layers: right wherever the decoder is cut.

Three are added, after layers 0, 1 and 2. Of those at K and after, the suffix takes the kept tokens' rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model
from tests.conftest import MakeBundle
from tests.families.rows.qwen_patches import ROWS
from tests.families.test_families import compare

ROW = next(row for row in ROWS if row.model_type == "qwen3_vl")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deepstack") / "qwen3_vl"
    ROW.write(path)
    return path


@pytest.mark.parametrize("layer", [1, 3, 4])  # 2 is in the table of families
def test_deepstack_is_added_on_both_sides_of_the_cut(source: Path, make_bundle: MakeBundle, layer: int) -> None:
    stock = load_model(source, FAMILIES[ROW.model_type])
    stock.generation_config.eos_token_id = None
    # Two images, then a video.
    compare(replace(ROW, cases=ROW.cases[2:4], videos=ROW.videos[2:4]), source, stock, make_bundle, [(layer, 0.5)])


def test_each_graph_adds_one_between_cuts(source: Path, make_bundle: MakeBundle) -> None:
    """Cuts before layers 1, 2 and 3: the features wait in one, two and three selects."""
    stock = load_model(source, FAMILIES[ROW.model_type])
    stock.generation_config.eos_token_id = None
    cuts = [(1, 0.7), (2, 0.4), (3, 0.2)]
    compare(replace(ROW, cases=ROW.cases[2:4], videos=ROW.videos[2:4]), source, stock, make_bundle, cuts)
