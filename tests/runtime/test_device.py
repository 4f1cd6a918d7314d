"""Bundles on a device: TensorRT and ONNX Runtime's CUDA provider, on a fake device that is stricter than a real one.

The answers must be those of the CPU; what is copied between host and device is counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastv_runtime import Bundle, Pipeline, Sampling, UserError
from fastv_runtime.engines.cuda import Cuda
from fastv_runtime.engines.tensorrt import TrtBackend
from tests.conftest import noise_picture
from tests.fakes.cuda import FakeCuda
from tests.fakes.tensorrt import fake_tensorrt, write_engines

QUESTION = "What color is it?"
TOKEN = ("DeviceToHost", 8)


def install(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> FakeCuda:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


def load(
    bundle_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, *, decode_profile: bool = True
) -> Pipeline:
    """A pipeline on the fake TensorRT."""
    install(monkeypatch, cuda)
    bundle = Bundle.open(bundle_path)
    engines = write_engines(bundle, folder, decode_profile=decode_profile)
    backend = TrtBackend(fake_tensorrt(cuda), Cuda("trt"), engines)
    monkeypatch.setattr("fastv_runtime.engines.backends._tensorrt", lambda bundle: backend)
    return Pipeline(bundle, backend="trt")


@pytest.mark.parametrize("decode_profile", [True, False], ids=["two profiles", "one profile"])
@pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "shared memory"])
def test_answers_are_those_of_the_cpu(
    tiny_bundle: Path,
    tiny_pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    integrated: bool,
    decode_profile: bool,
) -> None:
    cuda = FakeCuda(integrated=integrated)
    pipeline = load(tiny_bundle, tmp_path, monkeypatch, cuda, decode_profile=decode_profile)
    for count, length, sampling in ((1, "exact", None), (2, "fixed", None), (0, None, Sampling(1.0)), (1, None, None)):
        pictures = [noise_picture(seed) for seed in range(count)]
        for generation, expected in zip(
            *(
                [each.stream(pictures, QUESTION, length=length, sampling=sampling, max_new_tokens=9, ignore_stop=True)]
                for each in (pipeline, tiny_pipeline)
            ),
            strict=True,
        ):
            np.testing.assert_array_equal(pipeline.logits, tiny_pipeline.logits)
            assert "".join(generation) == "".join(expected)
            assert generation.answer.token_ids == expected.answer.token_ids
            assert generation.answer.kept_visual_tokens == expected.answer.kept_visual_tokens
            assert generation.answer.backend == "trt cuda"
            assert generation.draw_kept().size == expected.draw_kept().size if count else True
    cuda.check_guards()


def test_a_decoded_token_is_all_that_is_copied_to_the_host(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image
) -> None:
    cuda = FakeCuda()
    pipeline = load(tiny_bundle, tmp_path, monkeypatch, cuda)
    generation = pipeline.stream([picture], QUESTION, max_new_tokens=8, ignore_stop=True)
    cuda.copies.clear()
    for number, _ in enumerate(iter(lambda: len(generation.answer.token_ids) < 8 and next(generation, None), None)):
        if number == 3:
            break
    tokens = len(generation.answer.token_ids)
    assert [copy for copy in cuda.copies if copy[0] != "HostToDevice"] == [TOKEN] * tokens
    width = pipeline.bundle.manifest.decoder.hidden_size * 4
    # The embedding, the position, and where each cache goes on.
    assert sorted(size for kind, size in cuda.copies if kind == "HostToDevice") == sorted([width, 8, 8, 8] * (tokens - 1))


def test_nothing_is_copied_where_memory_is_shared(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image
) -> None:
    cuda = FakeCuda(integrated=True)
    pipeline = load(tiny_bundle, tmp_path, monkeypatch, cuda)
    pipeline.generate([picture], QUESTION, max_new_tokens=8, ignore_stop=True)
    assert cuda.copies == []


def test_decoding_is_one_graph_from_the_second_step_on(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image
) -> None:
    cuda = FakeCuda()
    pipeline = load(tiny_bundle, tmp_path, monkeypatch, cuda)
    pipeline.generate([picture], QUESTION, max_new_tokens=8, ignore_stop=True)
    assert cuda.launches == 6  # the first token is the prompt's, the second warms up
    pipeline.generate([picture], QUESTION, max_new_tokens=8, ignore_stop=True)
    assert cuda.launches == 6 + 7
