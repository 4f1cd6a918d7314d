"""Every family on OpenVINO against transformers' own forward: as `test_families` and `test_cuts`, in fp32.

What is kept after each cut, logits, 32 greedy tokens, and the caches, which OpenVINO keeps itself. A prompt about
several images or a video is pruned once, one about an image twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model
from tests.conftest import MakeBundle
from tests.families.conftest import CheckpointOf
from tests.families.row import Row
from tests.families.test_families import LAYER, UNSPLIT, compare
from tests.families.test_oracle import FIRST_ROWS

pytest.importorskip("openvino")
TARGET: dict[str, Any] = {"target": "openvino", "precision": "float32"}


@pytest.mark.parametrize("row", FIRST_ROWS, ids=str)
def test_a_family_on_openvino_is_what_transformers_computes(
    row: Row, checkpoint_of: CheckpointOf, make_bundle: MakeBundle
) -> None:
    source = checkpoint_of(row)
    stock = load_model(source, FAMILIES[row.model_type])
    stock.generation_config.eos_token_id = None
    last = stock.config.get_text_config().num_hidden_layers - 1
    for cuts, part in (([(LAYER, 0.5)], slice(-1, None)), ([(2, 0.4), (last, 0.2)], slice(1))):
        asked = replace(row, cases=row.cases[part], videos=row.videos[part])
        compare(asked, source, stock, make_bundle, cuts, verify=len(cuts) == 1, **TARGET)
    if row.model_type in UNSPLIT and not row.name:
        compare(replace(row, videos=()), source, stock, make_bundle, [], **TARGET)
