"""Every graph of every family as TensorRT-RTX builds it, for three generations of GPUs; it needs none of them.

One build serves the three, since TensorRT-RTX takes a list: it is twice as fast as three builds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("tensorrt_rtx", reason="make test installs it")
pytest.importorskip("polygraphy")

from fastv_export.engines import build_after_export
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES
from fastv_export.graphs.save import save_graph
from fastv_export.graphs.select import build_select
from fastv_export.plan import CutOption, Options
from fastv_export.progress import Progress
from fastv_export.quantization.presets import FLOATING
from fastv_export.rankers import RANKERS
from fastv_export.tracing.trace import OPSET, graph_inputs, name_outputs
from fastv_runtime.backends.tensorrt.device import Device, choose_device
from fastv_runtime.backends.tensorrt.module import TensorRt, load_tensorrt
from fastv_runtime.cli.build import main
from fastv_runtime.config.bundle import Bundle, read_manifest
from fastv_runtime.config.cuts import Cut
from fastv_runtime.config.plan import Weights
from fastv_runtime.errors import UserError
from fastv_runtime.tensorrt_build.builder import build_engines
from fastv_runtime.tensorrt_build.network import BuildError, BuilderSettings, build, compile_graph, parse
from fastv_runtime.tensorrt_build.profiles import graph_profiles
from tests.activations import tiny_activations
from tests.conftest import MakeBundle
from tests.families.row import Row
from tests.families.rows import ROWS
from tests.runtime.test_build_profiles import FIXED, manifest
from tests.timm_alone import import_timm
from tests.tiny_qwen_vl import write_tiny_qwen_vl

CAPABILITIES = ("SM86", "SM89", "SM120")
GRAPHS_OF_ANOTHER_ROW = ("internvl_image_tokens", "smolvlm_image_tokens", "llava_next-mistral")
"""Rows whose graphs have the operators of another row's."""

QWEN_VL_CHAT = Row("qwen", write_tiny_qwen_vl, cases=(), options={"max_text": 64, "max_new_tokens": 64})
BUILT = {str(row): row for row in [*ROWS, QWEN_VL_CHAT] if str(row) not in GRAPHS_OF_ANOTHER_ROW}

WITH_LLAVA = pytest.mark.xdist_group("rtx-llava")
"""Tests that share its bundle."""

PLAIN = ("PLUGIN", "PLUGIN_V2", "PLUGIN_V3", "LOOP_OUTPUT", "CONDITION", "NON_ZERO")
"""Layers that TensorRT falls back to, or whose shape depends on data."""


@pytest.fixture(scope="module")
def rtx() -> TensorRt:
    return load_tensorrt("tensorrt_rtx")


@pytest.fixture(scope="module")
def device(rtx: TensorRt) -> Device:
    return choose_device(rtx, None, CAPABILITIES)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint of a row, by its name, written once."""
    folder = tmp_path_factory.mktemp("rtx")

    def write(name: str) -> Path:
        if not (folder / name).exists():
            BUILT[name].write(folder / name)
        return folder / name

    return write


Source = Callable[[str], Path]


@pytest.fixture
def llava(source: Source, make_bundle: MakeBundle) -> Path:
    return make_bundle(source("llava"), target="trt", verify=False, **BUILT["llava"].options)


def test_every_family_is_built() -> None:
    assert {row.model_type for row in BUILT.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=WITH_LLAVA) if name == "llava" else name for name in BUILT], ids=str
)
def test_every_graph_of_a_family_is_built(
    name: str, source: Source, make_bundle: MakeBundle, rtx: TensorRt, device: Device
) -> None:
    if name == "fast_vlm":
        import_timm()
    path = make_bundle(source(name), target="trt", verify=False, **BUILT[name].options)
    bundle = Bundle(path, read_manifest(path))
    outcome = build_engines(bundle, device)
    assert set(outcome.built) == set(bundle.manifest.graphs)
    for graph, spec in bundle.manifest.graphs.items():
        assert outcome.receipt.engines[graph].size > 10_000
        types = Counter(parse(rtx, bundle.file(spec.file), spec).layer_types())
        layers = sum(tensor.name.startswith("past_key_") for tensor in spec.inputs)
        assert types["KV_CACHE_UPDATE"] == 2 * layers
        if layers:
            assert types["ATTENTION_INPUT"] == layers
            # The score of the last row is the one softmax beside them.
            assert types["SOFTMAX"] == (graph == "prefix")
        assert not set(types) & set(PLAIN)


@pytest.mark.parametrize("ranker", RANKERS)
def test_every_ranker_is_built(ranker: str, tmp_path: Path, rtx: TensorRt, device: Device) -> None:
    cut = Cut(layer=2, keep=0.5, ranker=ranker, signals=RANKERS[ranker].signals)
    made = manifest(FIXED, cuts=(cut,))
    spec = made.graphs["select"]
    outputs = [tensor.name for tensor in spec.outputs]
    select = build_select(graph_inputs(spec.inputs), OPSET, ranker, outputs)
    name_outputs(select, spec.outputs)
    save_graph(select, tmp_path / "select.onnx")
    profiles = graph_profiles("select", made, shared_weights=False)
    engine = compile_graph(tmp_path / "select.onnx", spec, profiles, device, BuilderSettings(), lambda phase: None)
    assert memoryview(engine).nbytes > 10_000
    assert not set(parse(rtx, tmp_path / "select.onnx", spec).layer_types()) & set(PLAIN)


@WITH_LLAVA
def test_every_graph_of_a_chain_is_built(
    source: Source, make_bundle: MakeBundle, rtx: TensorRt, device: Device
) -> None:
    cuts = (CutOption(1, 0.5), CutOption(3, 0.2))
    path = make_bundle(source("llava"), target="trt", verify=False, cuts=cuts)
    bundle = Bundle(path, read_manifest(path))
    outcome = build_engines(bundle, device)
    assert set(outcome.built) == {"vision", "prefix", "select", "middle", "select_2", "suffix"}
    for graph, layers in (("prefix", 1), ("middle", 2), ("suffix", 2)):
        spec = bundle.manifest.graphs[graph]
        types = Counter(parse(rtx, bundle.file(spec.file), spec).layer_types())
        assert (types["ATTENTION_INPUT"], types["KV_CACHE_UPDATE"]) == (layers, 2 * layers)
        assert types["SOFTMAX"] == (graph != "suffix")  # each cut's score
        assert not set(types) & set(PLAIN)


@WITH_LLAVA
def test_the_form_for_older_versions_is_built_too(
    source: Source, make_bundle: MakeBundle, rtx: TensorRt, device: Device
) -> None:
    path = make_bundle(source("llava"), target="trt-legacy", verify=False)
    bundle = Bundle(path, read_manifest(path))
    assert set(build_engines(bundle, device).built) == {"vision", "prefix", "select", "suffix"}
    spec = bundle.manifest.graphs["suffix"]
    types = set(parse(rtx, bundle.file(spec.file), spec).layer_types())
    assert not types & {"ATTENTION_INPUT", "KV_CACHE_UPDATE", *PLAIN}


@WITH_LLAVA
def test_weights_of_few_bits_are_built(source: Source, tmp_path: Path, rtx: TensorRt) -> None:
    """int8 products by calibrated ranges in the prefix, int4 weights in the suffix, int8 ones in the head: one export.

    The prefix has one layer and the attention of another: four inputs of linear layers, and two.
    """
    weights = Weights(bits=4, block=32, wide=("vision", "prefix", "head"), static=True)
    options = Options(layer=2, target="trt", verify=False, weights=weights)
    path = tmp_path / "few.fastv"
    made = export_bundle(source("llava"), path, options, Progress(None), tiny_activations(5))
    for graph, types, rounded in (("prefix", {"INT8"}, 4 + 2), ("suffix", {"INT4", "INT8"}, 0)):
        spec = made.graphs[graph]
        parsed = parse(rtx, path / spec.file, spec)
        read = {layer.get_input(0).dtype.name for layer in parsed.network if layer.type.name == "DEQUANTIZE"}
        assert read == types
        assert parsed.layer_types().count("QUANTIZE") == rounded
        profiles = graph_profiles(graph, made, shared_weights=False)
        engine = build(parsed, profiles, choose_device(rtx, None, ("SM86",)), BuilderSettings())
        assert memoryview(engine).nbytes > 10_000


@WITH_LLAVA
@pytest.mark.parametrize("precision", FLOATING)
def test_floating_point_of_few_bits_is_built(precision: str, source: Source, tmp_path: Path, rtx: TensorRt) -> None:
    """fp8 for Ada and Blackwell; nvfp4, with prefix, attention and head in fp8, for Blackwell. Older GPUs are refused
    before TensorRT-RTX refuses them."""
    since, names = ("SM89", ["SM89", "SM120"]) if precision == "fp8" else ("SM100", ["SM120"])
    options = Options(layer=2, target="trt-rtx", verify=False, weights=FLOATING[precision])
    path = tmp_path / "floating.fastv"
    made = export_bundle(source("llava"), path, options, Progress(None))
    device = choose_device(rtx, None, names)
    mlps, layers = 4, 3  # of the suffix
    if precision == "fp8":
        # What is rounded, the weights, and the head's.
        suffix = {"FP8": (2 * mlps + 2 * layers) + (3 * mlps + 4 * layers) + 1}
    else:
        # MLPs, whose blocks' scales are fp8; then attention as above, and the head.
        suffix = {"FP4": 2 * mlps + 3 * mlps, "FP8": 2 * mlps + 3 * mlps + 2 * layers + 4 * layers + 1}
    for graph, expected in (("prefix", {"FP8": (4 + 2) + (7 + 4)}), ("suffix", suffix)):
        spec = made.graphs[graph]
        parsed = parse(rtx, path / spec.file, spec)
        read = Counter(layer.get_input(0).dtype.name for layer in parsed.network if layer.type.name == "DEQUANTIZE")
        assert read == expected
        types = Counter(parsed.layer_types())
        assert types["DYNAMIC_QUANTIZE"] == (2 * mlps if "FP4" in expected else 0)
        assert (
            types["QUANTIZE"] == {"prefix": 4 + 2, "suffix": 2 * layers + 2 * mlps}[graph] - types["DYNAMIC_QUANTIZE"]
        )
        profiles = graph_profiles(graph, made, shared_weights=False)
        engine = build(parsed, profiles, device, BuilderSettings())
        assert memoryview(engine).nbytes > 10_000
    older = choose_device(rtx, None, ["SM86" if precision == "fp8" else "SM89"])
    datatype = "fp8_e4m3" if precision == "fp8" else "fp4_e2m1"
    with pytest.raises(BuildError, match=rf"Cannot compile for target.*{datatype}"):
        build(parse(rtx, path / spec.file, spec), profiles, older, BuilderSettings())
    with pytest.raises(UserError, match=rf"SM8\d does not compute in {precision}, which GPUs do since {since}: export"):
        build_engines(Bundle(path, made), older)


@WITH_LLAVA
def test_the_command_says_that_nothing_was_tested(llava: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(llava), "--compute-capability", "8.6", "--workspace", "1.5", "--json"])
    first = capsys.readouterr()
    receipt = json.loads(first.out)
    assert receipt["backend"] == "tensorrt_rtx"
    assert receipt["flags"]["workspace"] == 3 << 29
    assert all(engine["self_test"] is None for engine in receipt["engines"].values())
    assert "not tested: no GPU" in first.err
    assert (llava / "engines" / "rtx-sm86" / "receipt.json").is_file()
    main([str(llava), "--compute-capability", "8.6", "--workspace", "1.5"])
    assert "0 of 4 engines built" in capsys.readouterr().err
    with pytest.raises(SystemExit) as failure:
        main([str(llava), "--compute-capability", "8.6", "--workspace", "0"])
    assert failure.value.code == 2
    with pytest.raises(SystemExit):
        main([str(llava), "--compute-capability", "8.6", "--timing-cache", "x"])
    assert "--timing-cache: TensorRT-RTX has none" in capsys.readouterr().err


@WITH_LLAVA
def test_an_export_builds_for_every_gpu_since_ampere(llava: Path, rtx: TensorRt) -> None:
    build_after_export(llava, read_manifest(llava), "trt-rtx", Progress(None))
    (folder,) = (path for path in (llava / "engines").iterdir() if "sm80" in path.name)
    assert folder.name == "-".join(["rtx", *(name.lower() for name in rtx.portable_capabilities())])
    assert "sm75" not in folder.name
    assert len(list(folder.glob("*.engine"))) == 4


@pytest.mark.parametrize(("precision", "since"), [("fp8", 89), ("nvfp4", 100)])
def test_an_export_builds_for_gpus_that_have_its_format(
    precision: str, since: int, tmp_path: Path, rtx: TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Device] = []

    def built(bundle: Bundle, device: Device, **_: object) -> SimpleNamespace:
        chosen.append(device)
        return SimpleNamespace(folder=device.name, failed={})

    monkeypatch.setattr("fastv_export.engines.build_engines", built)
    made = manifest(FIXED)
    made = made.model_copy(update={"plan": made.plan.model_copy(update={"weights": FLOATING[precision]})})
    build_after_export(tmp_path, made, "trt-rtx", Progress(None))
    assert chosen[0].capabilities == tuple(each for each in rtx.capabilities() if int(each[2:]) >= since)


@WITH_LLAVA
def test_a_graph_that_cannot_be_read_says_what_tensorrt_says(llava: Path, rtx: TensorRt, tmp_path: Path) -> None:
    spec = read_manifest(llava).graphs["prefix"]
    (tmp_path / "torn.onnx").write_bytes((llava / spec.file).read_bytes()[:1000])
    with pytest.raises(BuildError, match=r"TensorRT-RTX 1\.\S+ cannot read .*torn\.onnx: "):
        parse(rtx, tmp_path / "torn.onnx", spec)
    other = read_manifest(llava).graphs["suffix"]
    with pytest.raises(BuildError, match="other inputs or outputs than the manifest"):
        parse(rtx, llava / spec.file, other)


@WITH_LLAVA
def test_the_way_through_tensorrt_proper_is_walked(llava: Path) -> None:
    """TensorRT cannot be installed everywhere: TensorRT-RTX takes its name and version, in a process of its own.

    What differs is then exercised: no compute capabilities, two profiles, a timing cache.
    """
    script = f"""
import sys, tensorrt_rtx
tensorrt_rtx.__version__ = "10.16.0"
sys.modules["tensorrt"] = tensorrt_rtx
from pathlib import Path
from fastv_runtime.tensorrt_build.builder import build_engines
from fastv_runtime.backends.tensorrt.device import choose_device
from fastv_runtime.backends.tensorrt.gpu import Gpu
from fastv_runtime.backends.tensorrt.module import load_tensorrt
from fastv_runtime.config.bundle import Bundle, read_manifest
path = Path({str(llava)!r})
device = choose_device(load_tensorrt("tensorrt"), Gpu("Orin", "SM87", 16, 1 << 36, True))
outcome = build_engines(Bundle(path, read_manifest(path)), device, workspace=1 << 30)
assert "torch" not in sys.modules
print(outcome.folder.name, *(len(record.profiles) for record in outcome.receipt.engines.values()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["trt-orin-sm87-16mp", "1", "2", "1", "2"]  # vision, prefix, select, suffix
