"""Towers that embed patches by a convolution of one window have a product there, on CPUs."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from fastv_runtime import Bundle
from tests.conftest import MakeBundle
from tests.families.conftest import CheckpointOf
from tests.families.row import Row
from tests.families.test_oracle import FIRST_ROWS

ONE_WINDOW = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.mark.parametrize("row", [row for row in FIRST_ROWS if row.model_type in ONE_WINDOW], ids=str)
def test_patches_are_a_product(row: Row, checkpoint_of: CheckpointOf, make_bundle: MakeBundle) -> None:
    bundle = Bundle.open(make_bundle(checkpoint_of(row), verify=False))
    towers = [spec for name, spec in bundle.manifest.graphs.items() if name in ("vision", "video")]
    for spec in towers:
        operators = {node.op_type for node in ir.load(bundle.path / spec.file).graph}
        assert "Conv" not in operators
        assert "Gemm" in operators
