"""Every precision and target with three cuts: graphs of layers between two cuts are rounded as those before the first.

Each export compares all its graphs, and the way from image to tokens, with transformers on weights that were rounded
apart from the graphs'. Of what an engine rounds itself, the graphs' operators are counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.exporting import export_bundle
from fastv_export.plan import CutOption, Options
from fastv_export.progress import Progress
from fastv_export.quantization.presets import FEW_BITS, FLOATING
from fastv_runtime.config.bundle import END_TO_END, Manifest
from fastv_runtime.config.plan import Weights
from tests.activations import tiny_activations
from tests.conftest import MakeBundle

CUTS = (CutOption(1, 0.75), CutOption(2, 0.5), CutOption(4, 0.25))
"""Of five layers: graphs with the attention of one, one, two and one layers."""
ATTENTIONS = {"prefix": 1, "middle": 1, "middle_2": 2, "suffix": 1}
MLPS = {"prefix": 0, "middle": 1, "middle_2": 2, "suffix": 2}
INT8 = FEW_BITS["int8"].model_copy(update={"static": True})


def export(source: Path, output: Path, scaled: bool = True, **options: Any) -> Manifest:
    chosen = Options(cuts=CUTS, max_text=64, max_new_tokens=8, **options)
    return export_bundle(source, output, chosen, Progress(None), tiny_activations(5) if scaled else None)


def nodes_of(folder: Path, manifest: Manifest, graph: str) -> Any:
    return onnx.load(folder / manifest.graphs[graph].file, load_external_data=False).graph.node


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_of_few_bits_on_onnxruntime(precision: str, tiny_llava: Path, tmp_path: Path) -> None:
    """Scaled by activations, values in caches too: each graph's by its own layers."""
    manifest = export(tiny_llava, tmp_path / "out", weights=FEW_BITS[precision])
    assert manifest.verified is not None and set(manifest.verified) == {*manifest.graphs, END_TO_END}
    assert max(manifest.verified.values()) < 1e-4
    if precision == "int4":
        # All stages before the last cut are wide.
        bits = {
            graph: {
                each.i
                for node in nodes_of(tmp_path / "out", manifest, graph)
                if node.op_type == "MatMulNBits"
                for each in node.attribute
                if each.name == "bits"
            }
            for graph in ATTENTIONS
        }
        assert bits == {"prefix": {8}, "middle": {8}, "middle_2": {8}, "suffix": {4, 8}}


@pytest.mark.parametrize("target", ["ort", "trt", "trt-legacy"])
def test_half_precision(target: str, tiny_llava: Path, tmp_path: Path) -> None:
    manifest = export(tiny_llava, tmp_path / "out", scaled=False, target=target, precision="float16")
    assert manifest.verified is not None and set(manifest.verified) == {*manifest.graphs, END_TO_END}
    assert 1e-5 < max(manifest.verified.values()) < 0.05


@pytest.mark.parametrize(
    ("weights", "wide"),
    [(INT8, set()), (FLOATING["fp8"], set()), (FLOATING["nvfp4"], {"prefix", "middle", "middle_2"})],
    ids=["int8", "fp8", "nvfp4"],
)
def test_activations_in_ranges(weights: Weights, wide: set[str], tiny_llava: Path, tmp_path: Path) -> None:
    """Of an attention two inputs are rounded (of queries, keys and values, and of the output) and of an MLP two; in
    nvfp4 those of the suffix' MLPs as they come. The head's beside floating-point weights."""
    manifest = export(tiny_llava, tmp_path / "out", target="trt", weights=weights)
    assert manifest.verified is not None and max(manifest.verified.values()) < 0.05
    for graph in ATTENTIONS:
        found = Counter(node.op_type for node in nodes_of(tmp_path / "out", manifest, graph))
        dynamic = 2 * MLPS[graph] if weights.name == "nvfp4" and graph not in wide else 0
        head = graph == "suffix" and weights.floating
        assert found["QuantizeLinear"] == 2 * (ATTENTIONS[graph] + MLPS[graph]) - dynamic + head, graph
        assert found["TRT_FP4DynamicQuantize"] == dynamic, graph


def test_weights_exist_once(tiny_llava: Path, make_bundle: MakeBundle) -> None:
    """Whatever the number of cuts: their bytes, and which graph has which layer's."""
    one, three = (make_bundle(tiny_llava, verify=False, **asked) for asked in ({"layer": 2}, {"cuts": CUTS}))
    sizes = [
        sum(file.stat().st_size for file in bundle.glob("onnx/*.data") if file.name != "vision.onnx.data")
        for bundle in (one, three)
    ]
    stored = sum(
        tensor.stop - tensor.start
        for name, tensor in Checkpoint(tiny_llava).tensors.items()
        if ("language_model" in name and "embed_tokens" not in name) or "lm_head" in name
    )
    # Offsets in files are rounded up, and norms are small enough to be in the graphs themselves.
    assert max(sizes) - min(sizes) < 16 << 10
    assert abs(sizes[1] - stored) < 16 << 10
