"""Graphs for OpenVINO: the growing cache beside the canonical form, and what chunks of the IR compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.execution.ir_chunks import run_ir_chunked
from fastv_export.execution.runs import ChunkedRun
from fastv_export.families import FAMILIES
from fastv_export.graphs.build import build_graph
from fastv_export.graphs.openvino_ir import GROUP, activation_group
from fastv_export.graphs.save import save_graph
from fastv_export.passes import lower_to_growing_cache, lower_to_stored_weights, quantize_weights
from fastv_export.plan import CutOption, Options, decoder_dimensions, make_plan
from fastv_export.quantization.weights import Quantization
from fastv_export.tracing import attention
from fastv_runtime import Bundle
from fastv_runtime.backends.openvino.states import again
from fastv_runtime.backends.registry import open_backend
from fastv_runtime.config.io_spec import io_specs
from fastv_runtime.config.plan import Weights
from tests.conftest import MakeBundle

CUTS = (CutOption(2, 0.5), CutOption(4, 0.2))


def middle(source: Path) -> ir.Model:
    """The canonical graph between two cuts: it is given selected rows, and makes scores."""
    attention.register()
    checkpoint, family = Checkpoint(source), FAMILIES["llava"]
    dimensions, vision = decoder_dimensions(checkpoint.config, family), family.vision(checkpoint.config, None)
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION)
    plan = make_plan(Options(cuts=CUTS, max_text=32, max_new_tokens=16), dimensions, vision, None)
    io_spec = io_specs(dimensions, vision, None, plan, "float32")["middle"]
    return build_graph("middle", io_spec, skeleton, family, vision, plan)


def session(model: ir.Model, path: Path) -> Any:
    save_graph(model, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # It would make one operator of a product and what dequantizes its weight, which rounds the other side too.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options)


@pytest.mark.parametrize(("rows", "before"), [(20, 0), (1, 20), (5, 11)])
def test_growing_caches_equal_the_canonical_form(tiny_llava: Path, tmp_path: Path, rows: int, before: int) -> None:
    model = middle(tiny_llava)
    canonical = session(model, tmp_path / "canonical.onnx")
    assert lower_to_growing_cache(model) == 4  # keys and values of two layers
    lowered = session(model, tmp_path / "lowered.onnx")
    generator = np.random.default_rng(rows)
    inputs: dict[str, np.ndarray] = {
        "hidden": generator.standard_normal((1, rows, 64), dtype=np.float32),
        "position_ids": np.sort(generator.choice(200, rows, replace=False))[None].astype(np.int64),
    }
    pasts = [each for each in canonical.get_inputs() if each.name.startswith("past_")]
    held = {each.name: generator.standard_normal((1, 2, before, 16), dtype=np.float32) for each in pasts}
    whole = {each.name: np.zeros(each.shape, np.float32) for each in pasts}
    for name, array in whole.items():
        array[:, :, :before] = held[name]
    names = [each.name for each in lowered.get_inputs()]
    assert "write_index" not in names
    copies = {name: held[name.removeprefix(again(""))] for name in names if name.startswith(again(""))}
    assert list(copies) == [again("past_key_3")], "keys of the one layer that is scored"
    expected = canonical.run(None, inputs | whole | {"write_index": np.array([before])})
    found = dict(
        zip([each.name for each in lowered.get_outputs()], lowered.run(None, inputs | held | copies), strict=True)
    )
    for output, value in zip(canonical.get_outputs(), expected, strict=True):
        if output.name.startswith("present_"):
            value = value[:, :, : before + rows]
        np.testing.assert_allclose(found[output.name], value, atol=1e-5, rtol=1e-4, err_msg=output.name)
    np.testing.assert_array_equal(found[again("present_key_3")], found["present_key_3"])


@pytest.mark.parametrize("rounding", [None, Quantization(8, None), Quantization(4, 32, zero_points=True)], ids=str)
def test_weights_as_stored_are_the_same_weights(
    tiny_llava: Path, tmp_path: Path, rounding: Quantization | None
) -> None:
    model = middle(tiny_llava)
    lower_to_growing_cache(model)
    quantize_weights(model, lambda name: rounding)
    before = session(model, tmp_path / "before.onnx")
    # Of two layers four of attention and three of an MLP each: the MLP of the second is the next graph's, and that of
    # the layer before the first this one's.
    assert lower_to_stored_weights(model) == 14
    after = session(model, tmp_path / "after.onnx")
    generator = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {}
    for each in before.get_inputs():
        free = 9 if each.name in ("hidden", "position_ids") else 0
        shape = [axis if isinstance(axis, int) else free for axis in each.shape]
        integers = each.type == "tensor(int64)"
        inputs[each.name] = np.arange(9)[None] if integers else generator.standard_normal(shape, dtype=np.float32)
    for ours, theirs in zip(after.run(None, inputs), before.run(None, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    group = activation_group(model)
    assert group == (None if rounding is None else rounding.block or GROUP)


def test_chunks_round_activations_in_the_groups_that_the_file_says(
    tiny_llava: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    weights = Weights(bits=4, block=64)
    path = make_bundle(tiny_llava, target="openvino", weights=weights, max_new_tokens=16, verify=False)
    spec = Bundle.open(path).manifest.graphs["suffix"]
    asked: list[str | None] = []
    compile_model = openvino.Core.compile_model

    def seen(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        asked.append(settings.get("DYNAMIC_QUANTIZATION_GROUP_SIZE"))
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", seen)
    given = {
        "hidden": np.zeros((1, 3, 64), np.float16),
        "position_ids": np.arange(3)[None],
        "write_index": np.zeros(1, np.int64),
    }
    given |= {
        each.name: np.zeros([int(axis) for axis in each.shape], np.float16)
        for each in spec.inputs
        if each.name.startswith("past_")
    }
    for exact, rounds in ((False, "64"), (True, "0")):
        asked.clear()
        run_ir_chunked(path / spec.file, [ChunkedRun(given.__getitem__, lambda name, value: None)], exact=exact)
        assert set(asked) == {rounds}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("graph", ["prefix", "middle", "suffix"])
def test_chunks_of_the_ir_compute_what_the_whole_does(
    tiny_llava: Path, make_bundle: MakeBundle, graph: str, precision: str
) -> None:
    """A prompt and a token behind it: chunks of nearly one product, beside OpenVINO with caches of its own."""
    pytest.importorskip("openvino")
    path = make_bundle(
        tiny_llava,
        cuts=CUTS,
        layer=None,
        keep=None,
        max_new_tokens=16,
        target="openvino",
        precision=precision,
        verify=False,
    )
    bundle = Bundle.open(path)
    spec = bundle.manifest.graphs[graph]
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((1, 12, 64)).astype(precision)
    caches = {
        each.name: np.zeros([int(axis) for axis in each.shape], precision)
        for each in spec.inputs
        if each.name.startswith("past_")
    }
    made: list[dict[str, np.ndarray]] = [{}, {}]

    def given(start: int, stop: int) -> dict[str, np.ndarray]:
        return {
            "hidden": np.ascontiguousarray(rows[:, start:stop]),
            "position_ids": np.arange(start, stop, dtype=np.int64)[None],
        }

    steps = [(0, 11), (11, 12)]
    runs = [
        ChunkedRun((given(*step) | caches | {"write_index": np.array([step[0]])}).__getitem__, made[index].__setitem__)
        for index, step in enumerate(steps)
    ]
    run_ir_chunked(path / spec.file, runs, limit=20_000)
    own = open_backend(bundle, threads=1, compute="f32").engine(graph).own_caches()
    assert own is not None
    outputs = [each for each in spec.outputs if not each.name.startswith("present_")]
    # What crosses chunks is rounded to the graph's precision.
    tolerance = 1e-5 if precision == "float32" else 2e-2
    for step, chunked in zip(steps, made, strict=True):
        count = step[1] - step[0]
        arrays = {
            each.name: np.zeros([axis if isinstance(axis, int) else count for axis in each.shape], each.dtype)
            for each in outputs
        }
        own.bind(given(*step), arrays).run()
        for name, array in arrays.items():
            largest = max(1.0, float(np.abs(array.astype(np.float32)).max()))
            np.testing.assert_allclose(chunked[name], array, rtol=0, atol=tolerance * largest, err_msg=name)
    for name, kept in zip(caches, own.read(12), strict=True):
        np.testing.assert_allclose(caches[name][:, :, :12], kept, rtol=0, atol=10 * tolerance, err_msg=name)
    assert not any(array[:, :, 12:].any() for array in caches.values())
