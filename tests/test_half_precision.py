"""The demo's answers through bundles for TensorRT, in half precision: those of fp32. Ten questions of the 500 that
`benchmarks/half_precision.py` asks."""

from __future__ import annotations

import numpy as np
import pytest

from demo import heldout
from fastv_runtime import Pipeline
from tests.conftest import DEMO, MakeBundle


@pytest.mark.parametrize("target", ["trt", "trt-legacy"])
def test_the_demo_answers_as_in_fp32(make_bundle: MakeBundle, target: str) -> None:
    full = Pipeline.load(make_bundle(DEMO, max_new_tokens=32), threads=1)
    half = Pipeline.load(make_bundle(DEMO, max_new_tokens=32, target=target), threads=1, backend="ort")
    assert (full.bundle.manifest.plan.precision, half.bundle.manifest.plan.precision) == ("float32", "float16")
    for sample in heldout.samples(10):
        first, second = (each.stream([sample.image], sample.question) for each in (full, half))
        np.testing.assert_allclose(half.logits, full.logits, rtol=0, atol=0.02 * np.abs(full.logits).max())
        assert "".join(second) == "".join(first)
