"""Three cuts on the CPU, on the fake TensorRT and on the fake CUDA provider: a call a stage, caches of four lengths."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastv_export.plan import CutOption
from fastv_runtime import Pipeline, UserError
from fastv_runtime.backends.onnxruntime import OrtBinding
from tests.conftest import MakeBundle, noise_image
from tests.fakes.cuda import FakeCuda
from tests.fakes.onnxruntime import fake_onnxruntime
from tests.runtime.test_device import (
    QUESTION,
    TOKEN,
    OnTensorRt,
    assert_answers_agree,
    on_tensorrt,  # noqa: F401  a fixture
)

CUTS = (CutOption(1, 0.8), CutOption(2, 0.5), CutOption(4, 0.2))
STAGES = ("prefix", "middle", "middle_2", "suffix")
NEW = 8


@pytest.fixture(scope="module")
def bundle(tiny_llava: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_llava, cuts=CUTS, max_images=2, max_text=64, max_new_tokens=NEW, verify=False)


@pytest.fixture
def cpu(bundle: Path) -> Pipeline:
    return Pipeline.load(bundle, threads=1)


@pytest.mark.parametrize("decode_profile", [True, False], ids=["two profiles", "one profile"])
def test_tensorrt_answers_as_the_cpu(
    bundle: Path,
    cpu: Pipeline,
    on_tensorrt: OnTensorRt,  # noqa: F811
    decode_profile: bool,
) -> None:
    cuda = FakeCuda()
    pipeline = on_tensorrt(bundle, cuda, decode_profile=decode_profile)
    images = [noise_image(seed) for seed in range(2)]
    options: dict[str, Any] = {"max_new_tokens": NEW}
    assert_answers_agree(pipeline, cpu, images[:1], **options)
    assert cuda.launches == NEW - 2  # one token is the prompt's, one warms up
    assert_answers_agree(pipeline, cpu, images, length="fixed", **options)
    assert_answers_agree(pipeline, cpu, images, keep=0.1, **options)
    assert_answers_agree(pipeline, cpu, [], **options)
    cuda.copies.clear()
    answer = pipeline.generate(images[:1], QUESTION, ignore_stop=True, **options)
    assert [cut.pruned_length for cut in answer.cuts] == [answer.prompt_tokens - 144 + n for n in (115, 72, 29)]
    # An embedding, a position, and where each of the four caches goes on.
    row = pipeline.bundle.manifest.decoder.hidden_size * 4
    steps = [size for kind, size in cuda.copies if kind == "HostToDevice"][-6 * (NEW - 1) :]
    assert Counter(steps) == {8: 5 * (NEW - 1), row: NEW - 1}
    assert cuda.copies[-1] == TOKEN
    # One execution context for prompts and one for decoding; selects take no part in decoding.
    engines = {name: pipeline.backend.engine(name)._engine for name in pipeline.bundle.manifest.graphs}  # type: ignore[attr-defined]
    assert [engines[name].contexts for name in STAGES] == [2] * 4
    assert [engines[name].contexts for name in ("select", "select_2", "select_3")] == [1] * 3


def test_the_cuda_provider_answers_as_the_cpu(bundle: Path, cpu: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake_onnxruntime(cuda))
    pipeline = Pipeline.load(bundle, device="cuda", threads=1)
    assert_answers_agree(pipeline, cpu, [noise_image(0), noise_image(1)], max_new_tokens=NEW)
    assert_answers_agree(pipeline, cpu, [noise_image(2)], length="fixed", max_new_tokens=NEW)
    cuda.check_guards()


@pytest.mark.parametrize("stay", [None, 0.0], ids=["chosen anew", "stays"])
@pytest.mark.parametrize("device", ["tensorrt", "cuda provider"])
def test_a_conversation_on_a_device_is_the_cpus(
    bundle: Path,
    cpu: Pipeline,
    on_tensorrt: OnTensorRt,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    stay: float | None,
) -> None:
    cuda = FakeCuda()
    if device == "tensorrt":
        pipeline = on_tensorrt(bundle, cuda, decode_profile=True)
    else:
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        monkeypatch.setitem(sys.modules, "onnxruntime", fake_onnxruntime(cuda))
        pipeline = Pipeline.load(bundle, device="cuda", threads=1)
    chats = [each.chat(stay=stay, max_new_tokens=4) for each in (cpu, pipeline)]
    for question, images in (("What is it?", [noise_image(0)]), ("Why?", []), ("Or?", [])):
        here, there = (chat.ask(question, images) for chat in chats)
        assert (there.token_ids, there.cuts, there.reused_tokens) == (here.token_ids, here.cuts, here.reused_tokens)
        assert (there.reused_tokens > 144) == (not images)
        if question == "Why?":
            # Copied out and in again, whatever was asked in between.
            for each in (cpu, pipeline):
                saved = each._slot.save()
                assert saved is not None
                each.generate([noise_image(9)], "What?", max_new_tokens=2)
                each._slot.restore(saved)
    cuda.check_guards()


def test_a_step_is_one_call_a_stage(cpu: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    run = OrtBinding.run

    def counted(binding: OrtBinding) -> None:
        calls.append(binding._path.stem)
        run(binding)

    monkeypatch.setattr(OrtBinding, "run", counted)
    cpu.generate([noise_image(0)], QUESTION, max_new_tokens=4, ignore_stop=True)
    prefill = ["vision", "prefix", "select", "middle", "select_2", "middle_2", "select_3", "suffix"]
    assert calls == [*prefill, *STAGES * 3]


@pytest.mark.parametrize("full", range(4), ids=STAGES)
def test_the_cache_that_is_full_is_named_before_anything_is_written(cpu: Pipeline, full: int) -> None:
    """Each has room for its own longest prompt and the new tokens: a prompt that is longest in one stage fills it."""
    decoder, most = cpu._slot.decoder, cpu.capacity.rows
    assert most == (64 + 288, 64 + 230, 64 + 144, 64 + 58)
    rows = [length if index == full else length - 5 for index, length in enumerate(most)]
    generator = np.random.default_rng(0)
    decoder.prompt.rows(0, rows[0]).write(generator.standard_normal((rows[0], 64), np.float32))
    prunable = np.arange(rows[0]) < rows[0] - 9
    left = decoder.prefill(np.arange(rows[0])[None], prunable, rows[1:], lambda _: nullcontext())
    assert [each.size for each in left] == rows[1:]
    for before, after in zip([np.arange(rows[0]), *left], left, strict=False):
        assert (
            np.isin(after, before).all()
            and (np.diff(after) > 0).all()
            and np.isin(np.arange(9) + rows[0] - 9, after).all()
        )
    for _ in range(NEW):
        decoder.step()
    before = {name: decoder.arena[name].array().copy() for name in decoder.arena.layout}
    name = STAGES[full]
    with pytest.raises(UserError, match=f"the {name}'s cache is full: it holds {most[full] + NEW} tokens"):
        decoder.step()
    for name, values in before.items():
        np.testing.assert_array_equal(decoder.arena[name].array(), values, err_msg=name)
