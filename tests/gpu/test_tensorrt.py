"""Engines built on the spot, against ONNX Runtime on the CPU in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastv_runtime import Bundle, Pipeline, UserError
from fastv_runtime.backends.cuda import Cuda
from fastv_runtime.backends.tensorrt.device import Device, choose_device
from fastv_runtime.backends.tensorrt.gpu import find_gpu
from fastv_runtime.backends.tensorrt.module import choose_backend, load_tensorrt
from fastv_runtime.tensorrt_build.builder import build_engines
from fastv_runtime.tensorrt_build.check import tensorrt_loader
from tests.conftest import MakeBundle, noise_image

QUESTION = "What color is it?"
TOLERANCE = 3e-2
"""Relative to the largest logit: fp16 has 11 bits, and five layers round some twelve results each."""


@pytest.fixture(scope="module")
def device(cuda: Cuda) -> Device:
    pytest.importorskip("polygraphy")
    try:
        return choose_device(load_tensorrt(choose_backend(None)), find_gpu())
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("layer", "keep"), [(2, 1.0), (2, 0.5), (None, 0.5)])
def test_engines_answer_as_the_cpu_does(
    device: Device, tiny_llava: Path, make_bundle: MakeBundle, layer: int | None, keep: float
) -> None:
    options = {"layer": layer, "keep": keep, "max_text": 64, "max_new_tokens": 32, "max_images": 2}
    path = make_bundle(tiny_llava, target="trt", verify=False, **options)
    outcome = build_engines(Bundle.open(path), device, load=tensorrt_loader(device.tensorrt))
    assert not outcome.failed
    pipeline = Pipeline.load(path, backend="trt")
    cpu = Pipeline.load(make_bundle(tiny_llava, verify=False, **options), threads=1)
    for count, length in ((1, "exact"), (2, "fixed"), (1, "fixed")):
        images = [noise_image(seed) for seed in range(count)]
        generation, expected = (
            each.stream(images, QUESTION, max_new_tokens=16, length=length, ignore_stop=True)
            for each in (pipeline, cpu)
        )
        kept, wanted = (set(each.answer.kept_visual_tokens) for each in (generation, expected))
        assert len(kept) == len(wanted)
        assert len(kept & wanted) >= 0.95 * len(wanted)
        if kept == wanted:
            logits = cpu.logits.copy()
            np.testing.assert_allclose(pipeline.logits, logits, rtol=0, atol=TOLERANCE * np.abs(logits).max())
        assert int(np.argmax(pipeline.logits)) == pipeline.decoder.token
        for _ in generation:
            pass
        answer = generation.answer
        assert answer.notes == expected.answer.notes, "decoding must have been recorded as a CUDA graph"
        # The same through the graph and without it, and whatever prompt came before.
        fresh = Pipeline.load(path, backend="trt")
        fresh._slot.decoder._replay = fresh._slot.decoder._steps  # type: ignore[attr-defined]
        again = fresh.generate(images, QUESTION, max_new_tokens=16, length=length, ignore_stop=True)
        assert again.token_ids == answer.token_ids
