"""What `make bench` relies on: balanced turns, its ratios, int8 in one range computing what int8 by rows computes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import decode_profile
import decoder as benchmark
from one_range import write_one_range

from fastv_runtime.backends.onnxruntime import OrtEngine
from fastv_runtime.bench.turns import orders, turns
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.cost import layer_flops, mlp_flops
from fastv_runtime.config.plan import Weights
from fastv_runtime.verification.comparison import difference
from fastv_runtime.verification.golden import golden_cases, known_outputs, read_golden
from tests.conftest import MakeBundle
from tests.runtime.bench.runners import DECODER


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


def test_ratios_of_two_cuts_are_taken_over_the_unsplit_decoder_and_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """640 tokens; 64 + 190 from layer 5 on, 64 + 115 from layer 11 on, of 24. An MLP is behind the cut of its layer."""

    def attention(rows: int) -> int:
        return layer_flops(DECODER, rows).gated - mlp_flops(DECODER, rows)

    dense = 24 * attention(640) + mlp_flops(DECODER, 23 * 640 + 1)
    own = 5 * attention(640) + 6 * attention(254) + 13 * attention(179)
    bound = dense / (own + mlp_flops(DECODER, 4 * 640 + 6 * 254 + 13 * 179 + 1))
    prefill = {benchmark.UNSPLIT: 1000.0, benchmark.TWO: 1000 / (0.98 * bound)}
    token = {benchmark.UNSPLIT: 10.0, benchmark.TWO: 10.1}

    def made_up(name: str, *_: object) -> Callable[[], Iterator[float]]:
        return lambda: iter([prefill.get(name, 500.0), *[token.get(name, 5.0)] * benchmark.DECODED])

    monkeypatch.setattr(benchmark, "load", made_up)
    monkeypatch.setattr(benchmark, "read_manifest", lambda path: SimpleNamespace(decoder=DECODER))
    for name in ("scoring_ms", "selecting_ms"):
        monkeypatch.setattr(benchmark, name, lambda *_: 1.0)
    report = benchmark.measure(Path(), dict.fromkeys(benchmark.BUNDLES, Path()), 14, 2)
    assert report["setting"]["pruned_lengths"] == {"split": [352], "two cuts": [254, 179], "unsplit": []}
    ratios = report["ratios"]
    assert ratios["prefill: FLOPs bound of that, gated MLP"] == pytest.approx(bound)
    assert ratios["prefill: unsplit / two cuts, by its gated bound"]["median"] == pytest.approx(0.98)
    assert ratios["decode: two cuts / unsplit"]["median"] == pytest.approx(1.01)
    page = benchmark.markdown(report)
    assert "`two cuts`: keep 0.33 from layer 5 on (254 tokens), keep 0.2 from layer 11 on (179 tokens)" in page
    assert "| decode: two cuts / unsplit | 1.010 (1.010 to 1.010) |" in page


def test_a_profile_has_a_row_for_every_call_of_a_token(
    tiny_llava: Path, tiny_bundle: Path, tiny_chain: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TEXT", 16), ("VISUAL", 144), ("DECODED", 2)):
        monkeypatch.setattr(decode_profile, name, value)
    dense = make_bundle(tiny_llava, prune=False, max_text=64, max_new_tokens=16)
    paths = {benchmark.UNSPLIT: dense, benchmark.SPLIT: tiny_bundle, benchmark.TWO: tiny_chain}
    runners = {name: decode_profile.Stepper(path, 1) for name, path in paths.items()}
    found = decode_profile.measure(runners, 1)
    assert {name: list(times) for name, times in found.items()} == {
        "unsplit": ["decoder", "between", "step"],
        "split": ["prefix", "suffix", "between", "step"],
        "two cuts": ["prefix", "middle", "suffix", "between", "step"],
    }
    for times in found.values():
        for *parts, step in zip(*times.values(), strict=True):
            assert min(parts) > 0 and sum(parts) == pytest.approx(step)
    page = decode_profile.markdown(runners, found, 1, 1)
    rows = [line.split(" | ")[:4] for line in page.splitlines() if line.startswith("| two cuts")]
    assert rows[:3] == [
        ["| two cuts", "prefix", "1", "160"],
        ["| two cuts", "middle", "2", "88"],
        ["| two cuts", "suffix", "2", "45"],
    ]


def operators(graph: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(graph, load_external_data=False).graph.node)
