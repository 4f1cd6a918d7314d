"""Verification chunk by chunk finds what running the whole graph would find."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from fastv_export.execution import stored_weights
from fastv_export.execution.chunks import cut
from fastv_export.execution.exact import with_exact_products
from fastv_export.verify.graphs import verify_graph
from fastv_runtime.backends.onnxruntime import OrtEngine
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.plan import Weights
from fastv_runtime.verification.comparison import compare_engine
from fastv_runtime.verification.golden import read_golden
from tests.conftest import MakeBundle

LIMIT = 40_000
"""Bytes of weights in a chunk: less than a matrix of the tiny model's MLP or head has, more than one of attention."""


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_weights, "WEIGHT", 1 << 10)


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize("options", [{}, {"prune": False}, {"precision": "float16"}], ids=["split", "dense", "fp16"])
@pytest.mark.parametrize("factor", [1.0, 1.01], ids=["right", "wrong"])
def test_chunks_differ_by_what_the_whole_graph_differs(
    tiny_llava: Path, make_bundle: MakeBundle, options: dict[str, object], factor: float
) -> None:
    bundle = Bundle.open(make_bundle(tiny_llava, verify=False, **options))
    plan, decoder = bundle.manifest.plan, bundle.manifest.decoder
    golden = {
        name: array * array.dtype.type(factor) if "/out/" in name and array.dtype.kind == "f" else array
        for name, array in read_golden(bundle).items()
    }
    for name, spec in bundle.manifest.graphs.items():
        chunked = verify_graph(name, spec, bundle.path, golden, plan, decoder, limit=LIMIT)
        engine = OrtEngine(bundle.path / spec.file, threads=1)
        compared = compare_engine(name, lambda engine=engine: engine, bundle.manifest, golden)
        whole = max(each.difference for each in compared)
        # Products whose columns are computed in parts may round otherwise. In half precision ONNX Runtime's optimizer
        # saves a graph roundings between operators that it computes in fp32; it cannot save them between chunks.
        rel = 0.5 if plan.precision == "float16" else 1e-2
        assert max(each.difference for each in chunked) == pytest.approx(whole, rel=rel, abs=2e-6), name
        assert factor == 1.0 or whole > 5e-3


@pytest.mark.usefixtures("nothing_is_small")
def test_chunks_hold_every_node_once_and_no_more_weights_than_asked(tiny_bundle: Path) -> None:
    path = tiny_bundle / "onnx" / "suffix.onnx"
    model = onnx.load(path, load_external_data=False)
    parts = list(cut(model, path.parent, LIMIT))
    assert [node for part in parts for node in part.nodes] == list(model.graph.node)
    held = [sum(weight.nbytes for weight in part.weights.values()) for part in parts]
    assert all(size <= LIMIT or len(part.weights) == 1 for part, size in zip(parts, held, strict=True))
    assert any(len(list(part.portions(LIMIT))) > 1 for part in parts)
    assert sum(held) > 0.9 * path.with_name("suffix.onnx.data").stat().st_size


def test_a_weight_that_ends_early_is_an_error(tiny_llava: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tiny_llava, verify=False))
    (tmp_path / "onnx").mkdir()
    for name in ("suffix.onnx", "suffix.onnx.data"):
        data = (bundle.path / "onnx" / name).read_bytes()
        (tmp_path / "onnx" / name).write_bytes(data if name.endswith("onnx") else data[:-1000])
    spec = bundle.manifest.graphs["suffix"]
    with pytest.raises((OSError, ValueError)):
        verify_graph(
            "suffix", spec, tmp_path, read_golden(bundle), bundle.manifest.plan, bundle.manifest.decoder, limit=LIMIT
        )


@pytest.mark.usefixtures("nothing_is_small")
@pytest.mark.parametrize(
    "weights", [Weights(bits=4, block=32), Weights(bits=8, block=32), Weights(bits=8, block=None)], ids=str
)
def test_weights_of_few_bits_are_read_and_activations_left_alone(
    tiny_llava: Path, make_bundle: MakeBundle, weights: Weights
) -> None:
    bundle = Bundle.open(make_bundle(tiny_llava, verify=False, weights=weights))
    golden, plan, decoder = read_golden(bundle), bundle.manifest.plan, bundle.manifest.decoder
    for name, spec in bundle.manifest.graphs.items():
        compared = verify_graph(name, spec, bundle.path, golden, plan, decoder, limit=LIMIT)
        assert max(each.difference for each in compared) < 1e-4, name
    path = bundle.path / "onnx" / "suffix.onnx"
    model = onnx.load(path, load_external_data=False)
    with_exact_products(model)
    assert any(len(list(chunk.portions(LIMIT))) > 1 for chunk in cut(model, path.parent, LIMIT))
