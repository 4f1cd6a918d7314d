"""What `make bench` relies on: balanced turns, and int8 in one range computing what int8 by rows computes."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import onnx
import pytest

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from one_range import write_one_range
from turns import orders, turns

from fastv_runtime.backends.onnxruntime import OrtEngine
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.plan import Weights
from fastv_runtime.verification.comparison import difference
from fastv_runtime.verification.golden import golden_cases, known_outputs, read_golden
from tests.conftest import MakeBundle


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7])
def test_every_runner_has_every_place_and_follows_every_other_equally_often(count: int) -> None:
    names = [f"c{index}" for index in range(count)]
    blocks = len(orders(count))
    found = list(islice(turns(names, 0), 2 * blocks))
    assert found == list(islice(turns(names, 0), 2 * blocks))
    assert all(sorted(order) == names for order in found)
    for half in (found[:blocks], found[blocks:]):
        places = Counter((place, name) for order in half for place, name in enumerate(order))
        followed = Counter(pair for order in half for pair in pairwise(order))
        assert len(places) == count**2
        assert len(followed) == count * (count - 1)
        assert len(set(places.values())) == len(set(followed.values())) == 1


def test_one_range_computes_what_rows_compute_where_there_is_one(
    tmp_path: Path, tiny_llava: Path, make_bundle: MakeBundle
) -> None:
    """Products, norms and attention of a decoded token, which is one row: both round it by its own range."""
    rows, one = make_bundle(tiny_llava, weights=Weights(bits=8, block=None)), tmp_path / "one.fastv"
    write_one_range(rows, one)
    bundles = [Bundle.open(rows), Bundle.open(one)]
    golden = read_golden(bundles[0])
    for name, last in (("prefix", "hidden_out"), ("suffix", "logits")):
        spec = bundles[0].manifest.graphs[name]
        before, after = (operators(bundle.file(spec.file)) for bundle in bundles)
        assert before["MatMulIntegerToFloat"] == after["MatMulIntegerToFloat"] > 0
        assert before["QuantizeLinear"] == before["ReduceMax"] == after["DynamicQuantizeLinear"] > 0
        assert not after.keys() & {"QuantizeLinear", "ReduceMax", "Abs", "Div"}
        (decode,) = (each for each in golden_cases(name, spec, golden) if "decode" in each.name)
        ours, theirs = (known_outputs(OrtEngine(bundle.file(spec.file), threads=1), decode) for bundle in bundles)
        far = {output: difference(theirs[output][0], values) for output, (values, _) in ours.items()}
        # Symmetric on one side and with an offset on the other: they cannot be equal.
        assert 0 < far[last] < 0.05, far
        assert max(far.values()) < 0.05, far


def operators(graph: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(graph, load_external_data=False).graph.node)
