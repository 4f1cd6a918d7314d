"""A plan of three cuts as TensorRT-RTX builds it: every graph, each stage with rows of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="make test installs it")
pytest.importorskip("polygraphy")

from fastv_export.plan import CutOption
from fastv_runtime.backends.tensorrt.device import choose_device
from fastv_runtime.backends.tensorrt.module import load_tensorrt
from fastv_runtime.config.bundle import Bundle, read_manifest
from fastv_runtime.config.lengths import capacity
from fastv_runtime.tensorrt_build.builder import build_engines
from fastv_runtime.tensorrt_build.network import parse
from tests.build.test_rtx import BUILT, PLAIN
from tests.conftest import MakeBundle


def test_every_stage_of_three_cuts_is_built(tmp_path: Path, make_bundle: MakeBundle) -> None:
    """Of Qwen3-VL: positions of three axes and deepstack wait in every select."""
    row, rtx, layers = BUILT["qwen3_vl"], load_tensorrt("tensorrt_rtx"), (1, 2, 4)
    row.write(tmp_path / "checkpoint")
    cuts = tuple(CutOption(layer, 0.8 - 0.3 * index) for index, layer in enumerate(layers))
    path = make_bundle(tmp_path / "checkpoint", target="trt", verify=False, cuts=cuts, **row.options)
    bundle = Bundle(path, read_manifest(path))
    outcome = build_engines(bundle, choose_device(rtx, None, ("SM86",)))
    plan, rows = bundle.manifest.plan, capacity(bundle.manifest.plan).rows
    assert set(outcome.built) == set(bundle.manifest.graphs) > {*plan.decoder_graphs, *plan.selects}
    assert len(set(rows)) == len(layers) + 1
    for stage, most in zip(plan.stages, rows, strict=True):
        (profile,) = outcome.receipt.engines[stage.graph].profiles
        assert profile["hidden"][2][1] == most
        spec = bundle.manifest.graphs[stage.graph]
        types = Counter(parse(rtx, bundle.file(spec.file), spec).layer_types())
        assert types["ATTENTION_INPUT"] == len(plan.layers(stage.graph, bundle.manifest.decoder.num_hidden_layers))
        # The score of the last row is the one softmax beside them.
        assert types["SOFTMAX"] == (stage.cut is not None)
        assert not set(types) & set(PLAIN)
