"""Every family's graphs for TensorRT 10.3: only what its parser takes, and the values of the canonical form.

Both forms run on ONNX Runtime on the same inputs, in fp32: prefill, one decoded token, every output, whole caches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.families import FAMILIES, Family
from fastv_export.graphs.build import build_graph
from fastv_export.graphs.save import save_graph
from fastv_export.plan import Options, decoder_dimensions, make_plan
from fastv_export.targets import TRT_LEGACY
from fastv_export.tracing import attention, tower_attention
from fastv_export.verify.reference import load_model
from fastv_runtime.config.base import TensorSpec
from fastv_runtime.config.io_spec import IOSpec, io_specs
from tests.conftest import MakeBundle
from tests.export.tensorrt_operators import violations
from tests.families.row import Row
from tests.families.rows import ROWS
from tests.families.test_families import LENGTHS, compare
from tests.plans import cuts_at
from tests.tiny_qwen_vl import write_tiny_qwen_vl

LAYER = 2
LENGTH, KEPT = 21, 13

FAMILY_ROWS = [
    *{row.model_type: row for row in ROWS}.values(),
    Row("qwen", write_tiny_qwen_vl, cases=(), options={"max_images": 2}),
]
"""One row of each family: others of the same differ in options."""


@dataclass(frozen=True)
class Form:
    """One graph of a family in both dialects, and what its vision graph takes."""

    canonical: Path
    lowered: Path
    io_spec: IOSpec
    example: dict[str, np.ndarray]


WITH_CUTS = next(replace(row, name="qwen3_vl-cuts") for row in FAMILY_ROWS if row.model_type == "qwen3_vl")
"""With three cuts instead of one: what waits for later ones is M-RoPE's positions and deepstack."""


@pytest.fixture(
    scope="module", params=[*FAMILY_ROWS, WITH_CUTS], ids=lambda row: row.name if row is WITH_CUTS else row.model_type
)
def forms(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Form]:
    row: Row = request.param
    folder = tmp_path_factory.mktemp("forms")
    row.write(folder / "checkpoint")
    options = row.options | ({"cuts": cuts_at(1, 2, 4)} if row is WITH_CUTS else {})
    return _forms(Checkpoint(folder / "checkpoint"), FAMILIES[row.model_type], options, folder)


def _forms(checkpoint: Checkpoint, family: Family, options: dict[str, Any], folder: Path) -> dict[str, Form]:
    attention.register()
    tower_attention.register()
    config = family.config(checkpoint)
    # Lengths as in the table of families, whose traces serve here too.
    chosen = Options(**{"layer": LAYER, **LENGTHS, **options}, target="trt-legacy")
    dimensions = decoder_dimensions(config, family)
    vision, video = family.vision(config, chosen.image_tokens), family.video(config)
    plan = make_plan(chosen, dimensions, vision, video).model_copy(update={"precision": "float32"})
    skeleton = Skeleton(checkpoint, family, attention=attention.IMPLEMENTATION)
    example = family.example(vision)
    made = {}
    for name, io_spec in io_specs(dimensions, vision, video, plan, "float32").items():
        files = folder / f"{name}-onnx.onnx", folder / f"{name}-trt-legacy.onnx"
        model = build_graph(name, io_spec, skeleton, family, vision, plan)
        save_graph(model, files[0])
        TRT_LEGACY.lower(model)
        save_graph(model, files[1])
        made[name] = Form(*files, io_spec, example)
    return made


def test_a_family_needs_nothing_newer_than_tensorrt_10_3(forms: dict[str, Form]) -> None:
    for name, form in forms.items():
        onnx.checker.check_model(form.lowered, full_check=True)
        model = onnx.load(form.lowered, load_external_data=False)
        assert set(violations(model)) == set(), name
        assert [(each.name, _shape(each)) for each in (*model.graph.input, *model.graph.output)] == [
            (each.name, list(each.shape)) for each in (*form.io_spec[0], *form.io_spec[1])
        ]


def test_a_family_computes_the_canonical_form(forms: dict[str, Form]) -> None:
    for name, form in forms.items():
        sessions = [_session(path) for path in (form.canonical, form.lowered)]
        outputs = [tensor.name for tensor in form.io_spec[1]]
        cases = [_vision_feeds(name, form)] if name in ("vision", "video", "pack") else _decoder_feeds(name, form)
        for case, feeds in enumerate(cases):
            expected, actual = (
                session.run(outputs, {key: value.copy() for key, value in feeds.items()}) for session in sessions
            )
            for output, first, second in zip(outputs, expected, actual, strict=True):
                scale = max(1.0, float(np.abs(first).max()))
                where = f"{name} {output} case {case}"
                np.testing.assert_allclose(second, first, rtol=0, atol=1e-4 * scale, err_msg=where)


def test_answers_are_those_of_transformers(tiny_llava: Path, make_bundle: MakeBundle) -> None:
    row = next(row for row in ROWS if row.model_type == "llava")
    stock = load_model(tiny_llava, FAMILIES["llava"])
    stock.generation_config.eos_token_id = None
    options = {"target": "trt-legacy", "precision": "float32"}
    compare(row, tiny_llava, stock, make_bundle, [(LAYER, 0.5)], **options)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def _vision_feeds(name: str, form: Form) -> dict[str, np.ndarray]:
    """What a vision graph takes, from the family's own example; random tiles for `pack` and frames for `video`."""
    if name == "vision":
        return form.example
    generator = np.random.default_rng(0)
    sizes = {"R": 9, "N": 14}
    feeds = {}
    for tensor in form.io_spec[0]:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.shape]
        random = generator.standard_normal(shape, np.float32)
        feeds[tensor.name] = generator.integers(0, sizes["R"] + 1, shape) if tensor.dtype == "int64" else random
    return feeds


def _decoder_feeds(name: str, form: Form) -> list[dict[str, np.ndarray]]:
    """A prompt; a token after it; and more rows into a cache that is part full."""
    if name.startswith("select"):
        return [_feeds(form.io_spec[0], LENGTH, {"length": np.asarray([KEPT])})]
    return [
        _feeds(form.io_spec[0], rows, {"write_index": np.asarray([write_index])})
        for rows, write_index in ((LENGTH, 0), (1, LENGTH), (5, 11))
    ]


def _feeds(inputs: tuple[TensorSpec, ...], rows: int, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Random values of each input's type; caches full of them, so that what is not seen is seen to be hidden."""
    generator = np.random.default_rng(rows)
    feeds = dict(given)
    for tensor in inputs:
        if tensor.name in feeds:
            continue
        shape = [rows if isinstance(axis, str) else axis for axis in tensor.shape]
        if tensor.name == "position_ids":
            # Gaps, as after pruning: positions are not indices.
            feeds[tensor.name] = np.sort(generator.integers(0, 200, shape))
        elif tensor.dtype == "bool":
            feeds[tensor.name] = generator.random(shape) < 0.7
        else:
            feeds[tensor.name] = generator.standard_normal(shape, np.float32)
    return feeds
