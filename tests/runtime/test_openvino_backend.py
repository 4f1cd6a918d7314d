"""OpenVINO as a backend: its caches, what its kernels compute in, and what it refuses in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastv_export.exporting import export_bundle
from fastv_export.plan import CutOption, Options
from fastv_export.progress import Progress
from fastv_runtime import Bundle, Pipeline, UserError
from fastv_runtime.backends.openvino.graphs import load_core
from fastv_runtime.backends.openvino.processor import capabilities
from fastv_runtime.backends.openvino.states import again, is_past, past_of, present_of
from fastv_runtime.backends.registry import backend_for, open_backend
from fastv_runtime.bench.runners.gate import pass_self_test
from fastv_runtime.cli.run import main as run
from fastv_runtime.config.plan import Weights
from tests.conftest import MakeBundle, noise_image
from tests.tiny import write_tiny_llava

openvino = pytest.importorskip("openvino")
QUESTION = "What is it?"


@pytest.fixture(scope="module")
def bundle(tiny_llava: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(
        tiny_llava,
        cuts=(CutOption(2, 0.5), CutOption(4, 0.2)),
        layer=None,
        keep=None,
        max_new_tokens=16,
        target="openvino",
        precision="float32",
    )


def test_what_its_states_are_called() -> None:
    assert past_of("past_key_3present_key_3") == ("past_key_3", False)
    assert past_of(again("past_key_3") + again("present_key_3")) == ("past_key_3", True)
    assert present_of("past_value_0") == "present_value_0"
    assert present_of(again("past_key_0")) == again("present_key_0")
    assert is_past("past_key_0")
    assert is_past(again("past_key_0"))
    assert not is_past("hidden")


def test_attention_is_fused_with_its_cache_where_scores_read_it_too(bundle: Path) -> None:
    core = load_core()
    for graph, layers in (("prefix", 2), ("middle", 2), ("suffix", 1)):
        compiled = core.compile_model(bundle / "openvino" / f"{graph}.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        kinds = [str(node.get_rt_info()["layerType"].value) for node in compiled.get_runtime_model().get_ordered_ops()]
        assert kinds.count("ScaledDotProductAttention") == layers
        assert kinds.count("RoPE") == 2 * layers
        assert kinds.count("Softmax") == (graph != "suffix")  # of scores, one row of them


@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_caches_are_kept_read_and_written(bundle: Path, compute: str) -> None:
    if compute.upper() not in ("F32", *load_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
        pytest.skip("this processor has no bf16")
    close = 1e-5 if compute == "f32" else 0.05  # of bf16, in which a prompt's rows are summed in another order
    with Pipeline.load(bundle, threads=2, compute=compute) as pipeline:
        prefix = pipeline.backend.engine("prefix")
        one, other = prefix.own_caches(), prefix.own_caches()
        assert one is not None
        assert other is not None
        width = pipeline.bundle.manifest.decoder.hidden_size
        rows = np.random.default_rng(0).standard_normal((1, 6, width), dtype=np.float32)

        def run_rows(caches: object, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            hidden = np.zeros((1, stop - start, width), np.float32)
            capacity = next(each for each in pipeline.bundle.manifest.graphs["prefix"].outputs if each.name == "scores")
            scores = np.zeros(capacity.shape, np.float32)
            inputs = {
                "hidden": np.ascontiguousarray(rows[:, start:stop]),
                "position_ids": np.arange(start, stop, dtype=np.int64)[None],
            }
            caches.bind(inputs, {"hidden_out": hidden, "scores": scores}).run()  # type: ignore[attr-defined]
            return hidden, scores

        whole, scores = run_rows(one, 0, 6)
        before = one.read(6)
        assert [each.shape for each in before] == [(1, 2, 6, 16)] * 4
        one.keep(4)  # forgets two, and the next run appends behind four
        again_, rescored = run_rows(one, 4, 6)
        np.testing.assert_allclose(again_, whole[:, 4:], atol=close * np.abs(whole).max())
        np.testing.assert_allclose(rescored, scores, atol=close)
        for kept, first in zip(one.read(6), before, strict=True):
            np.testing.assert_allclose(kept, first, atol=close * np.abs(first).max())
        other.write([each[:, :, :5] for each in before])  # a conversation that goes on elsewhere
        elsewhere, _ = run_rows(other, 5, 6)
        np.testing.assert_allclose(elsewhere, whole[:, 5:], atol=close * np.abs(whole).max())
        one.keep(0)
        fresh, _ = run_rows(one, 0, 6)
        np.testing.assert_allclose(fresh, whole, atol=1e-5 * np.abs(whole).max())
        with pytest.raises(ValueError, match=r"9 keys are to be kept of 6"):
            one.keep(9)


@pytest.mark.parametrize("width", [8, 20, 264])
def test_heads_of_any_width(tmp_path: Path, width: int) -> None:
    """Other targets refuse some: see `tests/cases/test_decoders.py`."""
    source = write_tiny_llava(tmp_path / "source", layers=3, head_dim=width)
    options = Options(layer=2, keep=0.5, target="openvino", precision="float32", max_new_tokens=8, verify=False)
    export_bundle(source, tmp_path / "made.fastv", options, Progress(None))
    with Pipeline.load(tmp_path / "made.fastv", threads=1) as pipeline:
        assert {"prefix", "suffix"} <= pass_self_test(pipeline.bundle, pipeline.backend).keys()


def test_it_decodes_to_the_end_of_its_caches_and_no_further(bundle: Path) -> None:
    with Pipeline.load(bundle, threads=1) as pipeline:
        answer = pipeline.generate(noise_image(0), QUESTION, max_new_tokens=16, ignore_stop=True)
        assert len(answer.token_ids) == 16
        decoder = pipeline.decoder
        with pytest.raises(UserError, match=r"cache is full"):
            for _ in range(pipeline.capacity.keys[0]):
                decoder.step()
        decoder.token  # noqa: B018  what was there can still be read


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_kernels_compute_in_what_they_are_told_and_pass_their_self_test(
    tiny_llava: Path, make_bundle: MakeBundle, bits: int | None
) -> None:
    weights = None if bits is None else Weights(bits=bits, block=32 if bits == 4 else None)  # type: ignore[arg-type]
    bundle = make_bundle(tiny_llava, target="openvino", weights=weights, verify=False)
    known = load_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for compute in ("f32", "bf16"):
        if compute == "bf16" and "BF16" not in known:
            with pytest.raises(UserError, match=r"`compute` bf16: this processor has no such products"):
                Pipeline.load(bundle, compute=compute)
            continue
        with Pipeline.load(bundle, threads=2, compute=compute) as pipeline:
            assert pipeline.backend.name == f"openvino cpu {compute}"
            assert pipeline.backend.engine("prefix").computes == {"f32": "float32", "bf16": "bfloat16"}[compute]
            # What chooses tokens copies them as they are.
            assert pipeline.backend.engine("select").computes is None
            assert pass_self_test(pipeline.bundle, pipeline.backend)["select"] < 2**-11  # which golden inputs lose


def test_bf16_is_the_default_unless_the_bundle_is_of_fp32(
    bundle: Path, tiny_llava: Path, make_bundle: MakeBundle
) -> None:
    own = "bf16" if "BF16" in load_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    half = make_bundle(tiny_llava, target="openvino", weights=None, verify=False)
    for path, compute in ((bundle, "f32"), (half, own)):
        with Pipeline.load(path, threads=2) as pipeline:
            assert pipeline.backend.name == f"openvino cpu {compute}"


def test_without_the_package_it_says_what_to_install(
    bundle: Path, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = r"openvino is not installed: pip install .*\[openvino\]"
    with pytest.raises(UserError, match=words):
        Pipeline.load(bundle)
    with pytest.raises(UserError, match=words):
        export_bundle(tiny_llava, tmp_path / "made.fastv", Options(target="openvino"), Progress(None))
    assert not (tmp_path / "made.fastv").exists()


def test_bundles_find_the_backend_that_they_are_for() -> None:
    found = {dialect: backend_for({dialect}) for dialect in ("ort", "openvino", "trt", "trt-legacy")}
    assert found == {"ort": "ort", "openvino": "openvino", "trt": "trt", "trt-legacy": "trt"}


def test_what_it_refuses(bundle: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"graph vision is of the dialect ort, and OpenVINO runs those of openvino"):
        open_backend(Bundle.open(tiny_bundle), "openvino")
    with pytest.raises(UserError, match=r"^`device` gpu: OpenVINO finds none here: it has cpu"):
        open_backend(Bundle.open(bundle), "openvino", "gpu")
    with pytest.raises(UserError, match=r"^`compute` bf16: backend ort is told by its graphs: leave it out"):
        open_backend(Bundle.open(tiny_bundle), "ort", compute="bf16")
    with pytest.raises(UserError, match=r"vision.xml: ONNX Runtime .* cannot load this graph: use `backend` openvino"):
        open_backend(Bundle.open(bundle), "ort")
    with pytest.raises(SystemExit) as left:
        run([str(tiny_bundle), "--backend", "openvino", "--prompt", QUESTION])
    assert left.value.code == 2
    assert "--target openvino" in capsys.readouterr().err
    # Another graph than the manifest says, with hashes that are not looked at.
    other = tmp_path / "other.fastv"
    shutil.copytree(bundle, other)
    for kind in ("xml", "bin"):
        shutil.copy(bundle / "openvino" / f"suffix.{kind}", other / "openvino" / f"middle.{kind}")
    with pytest.raises(UserError, match=r"middle.xml: input .* is not as bundle.json has it|output .* is not as"):
        open_backend(Bundle(other, Bundle.open(bundle).manifest), "openvino")
    (other / "openvino" / "vision.xml").write_text("<net")
    with pytest.raises(UserError, match=r"vision.xml: OpenVINO cannot compile this graph: [^\n]+$"):
        open_backend(Bundle(other, Bundle.open(bundle).manifest), "openvino")


def test_compiled_graphs_are_kept_and_found_again(
    bundle: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "made" / "cache"

    def answer() -> list[int]:
        with Pipeline.load(bundle, threads=1, model_cache=cache) as pipeline:
            return list(pipeline.generate(noise_image(0), QUESTION, max_new_tokens=8, ignore_stop=True).token_ids)

    def blobs() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in cache.rglob("*.blob")}

    first, made = answer(), blobs()
    files = Bundle.open(bundle).manifest.files
    assert {path.parent.name.rpartition("-")[0] for path in made} == {
        f"{files[f'openvino/{graph}.xml'].sha256[:16]}-{files[f'openvino/{graph}.bin'].sha256[:16]}"
        for graph in Bundle.open(bundle).manifest.graphs
    }
    assert answer() == first
    assert blobs() == made, "found, and not made again"
    with Pipeline.load(bundle, threads=1) as pipeline:
        found = pipeline.generate(noise_image(0), QUESTION, max_new_tokens=8, ignore_stop=True)
        assert list(found.token_ids) == first
    # Compiled for what they compute in, and on how many threads: OpenVINO's own names do not tell f32 from bf16.
    backend = open_backend(Bundle.open(bundle), "openvino", threads=2, model_cache=cache)
    assert len(blobs()) == 2 * len(made) and blobs().items() >= made.items()
    if "bf16" in capabilities(load_core()):
        other = open_backend(Bundle.open(bundle), "openvino", threads=2, model_cache=cache, compute="bf16")
        assert (backend.engine("suffix").computes, other.engine("suffix").computes) == ("float32", "bfloat16")
        assert len(blobs()) > 2 * len(made) and blobs().items() >= made.items()
    (locked,) = {path.parent for path in made if path.parent.name.startswith(files["openvino/suffix.xml"].sha256[:16])}
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    with pytest.raises(UserError, match=rf"{locked.name}: cannot be written: Permission denied"):
        open_backend(Bundle.open(bundle), "openvino", threads=1, model_cache=cache)
    with pytest.raises(UserError, match=r"`model_cache` .*: backend ort has nothing to keep there: leave it out"):
        Pipeline.load(tiny_bundle, model_cache=cache)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/.*: cannot be written: Not a directory"):
        Pipeline.load(bundle, model_cache=tmp_path / "file")


TWO = """
import gc, os, signal, sys
from fastv_runtime import Pipeline
signal.signal(signal.SIGUSR1, lambda *_: print("came"))
loaded = [Pipeline.load(sys.argv[1], threads=1) for _ in range(2)]
while loaded:
    loaded.pop(0).close()
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
print("lives")
"""


def test_signals_come_after_the_first_of_two_pipelines_is_closed(bundle: Path) -> None:
    """With a Core for each, the first signal after the second is closed ended the process on processors with AMX."""
    done = subprocess.run([sys.executable, "-c", TWO, bundle], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["came", "came", "lives"]), done.stderr
