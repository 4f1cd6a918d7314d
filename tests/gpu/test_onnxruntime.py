"""ONNX Runtime's CUDA provider on the device's arena, against its CPU provider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fastv_runtime import Pipeline
from fastv_runtime.backends.cuda import Cuda
from fastv_runtime.backends.onnxruntime import CUDA_PROVIDER
from tests.conftest import noise_image

QUESTION = "What color is it?"
TOLERANCE = 1e-3
"""Relative to the largest logit: fp32 sums in another order."""


@pytest.mark.skipif(CUDA_PROVIDER not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu")
def test_a_prompt_and_its_decoding_are_those_of_the_cpu(cuda: Cuda, tiny_bundle: Path, tiny_pipeline: Pipeline) -> None:
    pipeline = Pipeline.load(tiny_bundle, device="cuda")
    for seed in range(3):
        generation, expected = (
            each.stream([noise_image(seed)], QUESTION, max_new_tokens=16, ignore_stop=True)
            for each in (pipeline, tiny_pipeline)
        )
        logits = tiny_pipeline.logits.copy()
        np.testing.assert_allclose(pipeline.logits, logits, rtol=0, atol=TOLERANCE * np.abs(logits).max())
        kept, wanted = (set(each.answer.kept_visual_tokens) for each in (generation, expected))
        assert len(kept & wanted) >= 0.95 * len(wanted)
        for _ in generation:
            pass
        assert generation.answer.token_ids[0] == int(np.argmax(logits))
        assert len(generation.answer.token_ids) == 16
        # Asked again, the same: nothing is left over from one prompt to the next.
        again = pipeline.generate([noise_image(seed)], QUESTION, max_new_tokens=16, ignore_stop=True)
        assert again.token_ids == generation.answer.token_ids
