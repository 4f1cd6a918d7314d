"""Bundles on a device: TensorRT and ONNX Runtime's CUDA provider, on a fake device that is stricter than a real one.

The answers must be those of the CPU; what is copied between host and device is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastv_runtime import Bundle, Pipeline, Sampling, UserError
from fastv_runtime.backends.cuda import Cuda
from fastv_runtime.backends.registry import BACKENDS
from fastv_runtime.backends.tensorrt.engine import TrtBackend
from fastv_runtime.generation.calls.streaming import Generation
from tests.conftest import MakeBundle, noise_image
from tests.fakes.cuda import FakeCuda
from tests.fakes.onnxruntime import fake_onnxruntime
from tests.fakes.tensorrt import fake_tensorrt, write_engines
from tests.families.rows import ROWS
from tests.families.test_families import LENGTHS

QUESTION = "What color is it?"
TOKEN = ("DeviceToHost", 8)

OnTensorRt = Callable[..., Pipeline]


@pytest.fixture
def on_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnTensorRt]:
    """A pipeline of a bundle on the fake TensorRT; at the end, nothing was written outside of what was allocated."""
    devices: list[FakeCuda] = []

    def load(path: Path, cuda: FakeCuda, *, decode_profile: bool = True) -> Pipeline:
        devices.append(cuda)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        bundle = Bundle.open(path)
        engines = write_engines(bundle, tmp_path, decode_profile=decode_profile)
        backend = TrtBackend(fake_tensorrt(cuda), Cuda("trt"), engines)
        monkeypatch.setitem(BACKENDS, "trt", replace(BACKENDS["trt"], open=lambda *_: backend))
        return Pipeline(bundle, backend="trt")

    yield load
    for cuda in devices:
        cuda.check_guards()


def assert_answers_agree(pipeline: Pipeline, cpu: Pipeline, images: list[Image.Image], **options: Any) -> Generation:
    """Logits of the prompt, tokens and kept tokens: equal to the bit, since the same kernels run."""
    options = {"max_new_tokens": 9, "ignore_stop": True} | options
    generation, expected = (each.stream(images, QUESTION, **options) for each in (pipeline, cpu))
    np.testing.assert_array_equal(pipeline.logits, cpu.logits)
    assert "".join(generation) == "".join(expected)
    assert generation.answer.token_ids == expected.answer.token_ids
    assert generation.answer.kept_visual_tokens == expected.answer.kept_visual_tokens
    np.testing.assert_array_equal(pipeline.logits, cpu.logits)
    return generation


@pytest.mark.parametrize("decode_profile", [True, False], ids=["two profiles", "one profile"])
@pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "shared memory"])
def test_answers_are_those_of_the_cpu(
    tiny_bundle: Path, tiny_pipeline: Pipeline, on_tensorrt: OnTensorRt, integrated: bool, decode_profile: bool
) -> None:
    pipeline = on_tensorrt(tiny_bundle, FakeCuda(integrated=integrated), decode_profile=decode_profile)
    images = [noise_image(seed) for seed in range(2)]
    generation = assert_answers_agree(pipeline, tiny_pipeline, images[:1], length="exact")
    assert generation.answer.backend == "trt cuda"
    assert generation.answer.notes == []
    drawn = tiny_pipeline.stream(images[:1], QUESTION, length="exact").draw_kept()
    assert generation.draw_kept().tobytes() == drawn.tobytes()
    assert_answers_agree(pipeline, tiny_pipeline, images, length="fixed")
    assert_answers_agree(pipeline, tiny_pipeline, images, length="fixed", keep=0.1)
    assert_answers_agree(pipeline, tiny_pipeline, [], sampling=Sampling(temperature=1.0))
    assert_answers_agree(pipeline, tiny_pipeline, images[:1], max_new_tokens=64)


def test_the_unsplit_decoder_answers_as_on_the_cpu(
    tiny_llava: Path, make_bundle: MakeBundle, on_tensorrt: OnTensorRt
) -> None:
    bundle = make_bundle(tiny_llava, prune=False, verify=False, max_text=64, max_new_tokens=16)
    assert_answers_agree(on_tensorrt(bundle, FakeCuda()), Pipeline.load(bundle, threads=1), [noise_image(0)])


def test_a_chain_of_cuts_answers_as_on_the_cpu_and_decodes_as_one_graph(
    tiny_chain: Path, on_tensorrt: OnTensorRt
) -> None:
    """Three stages in one CUDA graph a token, and one token that is copied to the host."""
    cuda = FakeCuda()
    pipeline = on_tensorrt(tiny_chain, cuda)
    generation = assert_answers_agree(pipeline, Pipeline.load(tiny_chain, threads=1), [noise_image(0)])
    answer = generation.answer
    assert [(cut.layer, len(cut.kept_visual_tokens)) for cut in answer.cuts] == [(1, 72), (3, 29)]
    assert cuda.launches == len(answer.token_ids) - 2  # one token is the prompt's, one warms up
    engine = pipeline.backend.engine
    assert [engine(name)._engine.contexts for name in ("prefix", "middle", "suffix")] == [2, 2, 2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("model_type", "layer"), [("qwen3_vl", 1), ("llava_onevision", 2)])
def test_every_kind_of_buffer_is_one_of_the_device(
    model_type: str, layer: int, tmp_path: Path, make_bundle: MakeBundle, on_tensorrt: OnTensorRt
) -> None:
    """M-RoPE's axes and deepstack on both sides of the cut; features that are packed."""
    row = next(row for row in ROWS if row.model_type == model_type)
    row.write(tmp_path / "checkpoint")
    options = LENGTHS | row.options | {"keep": 0.5}
    bundle = make_bundle(tmp_path / "checkpoint", layer=layer, verify=False, **options)
    pipeline, cpu = on_tensorrt(bundle, FakeCuda()), Pipeline.load(bundle, threads=1)
    for sizes in row.cases[2:0:-1]:
        assert_answers_agree(pipeline, cpu, [noise_image(index, size) for index, size in enumerate(sizes)])


@pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "shared memory"])
def test_onnxruntime_answers_on_the_device_as_on_the_cpu(
    tiny_bundle: Path, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, integrated: bool
) -> None:
    cuda = FakeCuda(integrated=integrated)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake_onnxruntime(cuda))
    pipeline = Pipeline.load(tiny_bundle, device="cuda", threads=1)
    generation = assert_answers_agree(pipeline, tiny_pipeline, [noise_image(0)])
    assert generation.answer.backend == "ort cuda"
    assert_answers_agree(pipeline, tiny_pipeline, [noise_image(seed) for seed in range(2)])
    cuda.check_guards()


def test_a_decoded_token_is_all_that_is_copied_to_the_host(
    tiny_bundle: Path, on_tensorrt: OnTensorRt, image: Image.Image
) -> None:
    cuda = FakeCuda()
    pipeline = on_tensorrt(tiny_bundle, cuda)
    generation = pipeline.stream([image], QUESTION, max_new_tokens=8, ignore_stop=True)
    cuda.copies.clear()
    for _ in generation:
        pass
    # Beside the tokens one row of logits, the first token's: whether they are numbers.
    logits = ("DeviceToHost", pipeline.bundle.manifest.decoder.vocab_size * 4)
    assert [copy for copy in cuda.copies if copy[0] != "HostToDevice"] == [logits, *[TOKEN] * 8]
    row = pipeline.bundle.manifest.decoder.hidden_size * 4
    # An embedding, a position, and where each of the two caches goes on.
    assert sorted(size for kind, size in cuda.copies if kind == "HostToDevice") == [8] * 3 * 7 + [row] * 7


@pytest.mark.parametrize("integrated", [False, True], ids=["own memory", "shared memory"])
def test_scores_are_copied_to_the_host_once_and_for_a_share_alone(
    tiny_bundle: Path, tiny_pipeline: Pipeline, on_tensorrt: OnTensorRt, image: Image.Image, integrated: bool
) -> None:
    cuda = FakeCuda(integrated=integrated)
    pipeline = on_tensorrt(tiny_bundle, cuda)
    generation = assert_answers_agree(pipeline, tiny_pipeline, [image], keep="auto", share=0.5)
    rows = generation.answer.prompt_tokens
    copied = {}
    for share in (None, 0.5):
        cuda.copies.clear()
        pipeline.generate([image], QUESTION, max_new_tokens=1, share=share)
        copied[share] = [size for kind, size in cuda.copies if kind == "DeviceToHost"]
    shared = 0 if integrated else 1
    assert copied[0.5].count(4 * rows) == shared and copied[0.5].count(rows) == shared  # scores, and which are visual
    assert len(copied[0.5]) == len(copied[None]) + 2 * shared


def test_nothing_is_copied_where_memory_is_shared(
    tiny_bundle: Path, on_tensorrt: OnTensorRt, image: Image.Image
) -> None:
    cuda = FakeCuda(integrated=True)
    on_tensorrt(tiny_bundle, cuda).generate([image], QUESTION, max_new_tokens=8, ignore_stop=True)
    assert cuda.copies == []


def test_decoding_is_one_graph_from_the_second_step_on(
    tiny_bundle: Path, on_tensorrt: OnTensorRt, image: Image.Image
) -> None:
    cuda = FakeCuda()
    pipeline = on_tensorrt(tiny_bundle, cuda)
    pipeline.generate([image], QUESTION, max_new_tokens=8, ignore_stop=True)
    assert cuda.launches == 6  # one token is the prompt's, one warms up
    pipeline.generate([noise_image(1)], QUESTION, max_new_tokens=8, ignore_stop=True)
    assert cuda.launches == 6 + 7
    # One execution context for the prompts and one for decoding, however many prompts there are.
    assert pipeline.backend.engine("suffix")._engine.contexts == 2  # type: ignore[attr-defined]


def test_decoding_goes_on_where_no_graph_can_be_recorded_and_says_so(
    tiny_bundle: Path, tiny_pipeline: Pipeline, on_tensorrt: OnTensorRt
) -> None:
    cuda = FakeCuda(capturable=False)
    generation = assert_answers_agree(on_tensorrt(tiny_bundle, cuda), tiny_pipeline, [noise_image(0)])
    assert cuda.launches == 0
    (note,) = generation.answer.notes
    assert note.startswith("decoding without a CUDA graph, which takes longer: cudaStreamBeginCapture")


@pytest.mark.parametrize("on_device", [False, True], ids=["cpu", "device"])
def test_a_full_cache_is_an_error_before_anything_is_written(
    tiny_bundle: Path, on_tensorrt: OnTensorRt, on_device: bool
) -> None:
    pipeline = on_tensorrt(tiny_bundle, FakeCuda()) if on_device else Pipeline.load(tiny_bundle, threads=1)
    answer = pipeline.generate([noise_image(0), noise_image(1)], QUESTION, length="fixed", max_new_tokens=1)
    assert answer.pruned_length == pipeline.capacity.pruned
    decoder = pipeline._slot.decoder
    for _ in range(pipeline.capacity.keys[-1] - answer.pruned_length):
        decoder.step()
    before = {name: decoder.arena[name].array().copy() for name in decoder.arena.layout}
    # The prefix still has room, and is not written either.
    assert answer.prompt_tokens < pipeline.capacity.prompt
    with pytest.raises(UserError, match=r"the suffix's cache is full: it holds 272 tokens.*max_new_tokens"):
        decoder.step()
    for name, values in before.items():
        np.testing.assert_array_equal(decoder.arena[name].array(), values, err_msg=name)


def test_a_device_without_room_is_named(tiny_bundle: Path, on_tensorrt: OnTensorRt) -> None:
    with pytest.raises(UserError, match=r"the GPU has no \d+ MiB left: .*max_visual"):
        on_tensorrt(tiny_bundle, FakeCuda(capacity=1 << 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "trt", "device": "cpu"}, "`device` cpu: backend trt runs on cuda"),
        ({"backend": "other"}, "`backend` other: must be one of ort, openvino, trt"),
        ({"backend": "trt"}, "`device` cuda: no CUDA device can be used: .*no CUDA-capable device"),
        ({"device": "cuda"}, "`device` cuda: no CUDA device can be used"),
    ],
)
def test_without_a_gpu_there_is_one_clear_line(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(devices=0))
    with pytest.raises(UserError, match=message):
        Pipeline.load(tiny_bundle, **options)


@pytest.mark.parametrize(("options", "extra"), [({"backend": "trt"}, "trt"), ({"device": "cuda"}, "gpu")])
def test_without_cuda_python_the_extra_is_named(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(UserError, match=rf"cuda-python is not installed: pip install -e '\.\[{extra}\]'"):
        Pipeline.load(tiny_bundle, **options)


def test_an_onnxruntime_without_cuda_is_told_from_one_that_cannot_start_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    with pytest.raises(UserError, match=r"as installed has no CUDA provider: .*pip install -e '\.\[gpu\]'"):
        Pipeline.load(tiny_bundle, device="cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", fake_onnxruntime(cuda, starts=False))
    with pytest.raises(UserError, match="has a CUDA provider and cannot start it"):
        Pipeline.load(tiny_bundle, device="cuda")


def test_the_real_bindings_have_what_is_called() -> None:
    """The names and the numbers of arguments, where cuda-python is installed; no call needs a GPU to be refused."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name in vars(FakeCuda):
        if name.startswith("cuda") and callable(getattr(FakeCuda, name)) and not isinstance(vars(FakeCuda)[name], type):
            assert callable(getattr(runtime, name)), name
    for owner in ("cudaMemcpyKind", "cudaDeviceAttr", "cudaStreamCaptureMode"):
        for member in vars(getattr(FakeCuda, owner)):
            assert hasattr(getattr(runtime, owner), member), member
    assert runtime.cudaHostAllocMapped == FakeCuda.cudaHostAllocMapped
    assert runtime.cudaStreamNonBlocking == FakeCuda.cudaStreamNonBlocking
