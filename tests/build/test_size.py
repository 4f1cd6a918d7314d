"""An engine is about as large as its weights: they are stored once, for prefill, decoding and all pruned lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="make test installs it")
pytest.importorskip("polygraphy")

from fastv_runtime.backends.tensorrt.device import Device, choose_device
from fastv_runtime.backends.tensorrt.module import load_tensorrt
from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.config.lengths import capacity, pruned_length
from fastv_runtime.tensorrt_build.network import BuilderSettings, compile_graph
from fastv_runtime.tensorrt_build.profiles import Profile, Shapes, graph_profiles
from tests.conftest import MakeBundle
from tests.tiny import write_tiny_llava

WIDTH = 1024


@pytest.fixture(scope="module")
def device() -> Device:
    return choose_device(load_tensorrt("tensorrt_rtx"), None, ["SM89"])


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llava(
        tmp_path_factory.mktemp("checkpoints") / "wide",
        layers=2,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_attention_heads=8,
        num_key_value_heads=2,
        initializer_range=0.02,
    )


def engine_size(bundle: Path, graph: str, device: Device, profiles: list[Profile]) -> int:
    spec = read_manifest(bundle).graphs[graph]
    built = compile_graph(bundle / spec.file, spec, profiles, device, BuilderSettings(), lambda phase: None)
    return memoryview(built).nbytes


def weights_of(bundle: Path, graph: str) -> int:
    size = (bundle / f"{read_manifest(bundle).graphs[graph].file}.data").stat().st_size
    assert size > 30 << 20, "smaller graphs are mostly kernels"
    return size


def test_an_engine_holds_its_weights_once(wide: Path, make_bundle: MakeBundle, device: Device) -> None:
    """The decoder is the unsplit one, which no other test builds."""
    bundle = make_bundle(wide, target="trt", verify=False, prune=False)
    weights = weights_of(bundle, "decoder")
    profiles = graph_profiles("decoder", read_manifest(bundle), shared_weights=False)
    assert weights < engine_size(bundle, "decoder", device, profiles) < 1.15 * weights


def test_a_suffix_of_several_lengths_is_as_large_as_one_of_a_single_length(
    wide: Path, make_bundle: MakeBundle, device: Device
) -> None:
    bundle = make_bundle(wide, target="trt", verify=False, layer=1, length="fixed", max_text=128)
    manifest = read_manifest(bundle)
    plan, needed = manifest.plan, capacity(manifest.plan)
    lengths = {pruned_length(plan, text, plan.max_visual, "fixed", needed) for text in range(8, 129)}
    assert len(lengths) == 4 and max(lengths) == needed.pruned
    (several,) = graph_profiles("suffix", manifest, shared_weights=False)
    for rows in lengths:
        assert several["hidden"].min[1] <= rows <= several["hidden"].max[1]
    single = {name: Shapes(shapes.max, shapes.max, shapes.max) for name, shapes in several.items()}
    assert single["hidden"].min[1] == needed.pruned
    one = engine_size(bundle, "suffix", device, [single])
    assert abs(engine_size(bundle, "suffix", device, [several]) / one - 1) < 0.05
    assert one > weights_of(bundle, "suffix")
