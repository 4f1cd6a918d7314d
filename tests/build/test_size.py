"""An engine is about as large as its weights: they are stored once, prefill and decoding sharing them.

The decoder is the unsplit one, which no other test builds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="make test installs it")
pytest.importorskip("polygraphy")

from fastv_runtime.backends.tensorrt.device import choose_device
from fastv_runtime.backends.tensorrt.module import load_tensorrt
from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.tensorrt_build.network import BuilderSettings, compile_graph
from fastv_runtime.tensorrt_build.profiles import graph_profiles
from tests.conftest import MakeBundle
from tests.tiny import write_tiny_llava

WIDTH = 1024


def test_an_engine_holds_its_weights_once(tmp_path: Path, make_bundle: MakeBundle) -> None:
    source = write_tiny_llava(
        tmp_path / "wide",
        layers=2,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_attention_heads=8,
        num_key_value_heads=2,
        initializer_range=0.02,
    )
    bundle = make_bundle(source, target="trt", verify=False, layer=None)
    manifest = read_manifest(bundle)
    spec = manifest.graphs["decoder"]
    weights = (bundle / f"{spec.file}.data").stat().st_size
    assert weights > 30 << 20, "smaller graphs are mostly kernels"
    device = choose_device(load_tensorrt("tensorrt_rtx"), None, ["SM89"])
    profiles = graph_profiles("decoder", manifest, shared_weights=False)
    engine = memoryview(
        compile_graph(bundle / spec.file, spec, profiles, device, BuilderSettings(), lambda phase: None)
    )
    assert weights < engine.nbytes < 1.15 * weights
