"""Plans of two cuts in a benchmark: bounds and predictions by hand, keeps, the curve, and what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastv_runtime import Pipeline
from fastv_runtime.bench.analysis.bounds import decode_bound, prefill_bound
from fastv_runtime.bench.analysis.device_profile import fit, predict
from fastv_runtime.bench.models import read_report
from fastv_runtime.bench.output.curves import keep_plot
from fastv_runtime.bench.output.page import page
from fastv_runtime.bench.runners import prepare
from fastv_runtime.bench.runners.probe import probe
from fastv_runtime.cli import bench as command
from fastv_runtime.config.cost import layer_flops, mlp_flops
from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.lengths import with_keep
from tests.conftest import MakeBundle
from tests.runtime.bench.runners import CHAIN, DECODER, DENSE, PRUNED, TEXT, record, report_of, turn
from tests.runtime.bench.test_profile import decoder_of, machine, profile_of, whole

LENGTHS = (TEXT + 288, TEXT + 144)


def test_bounds_count_every_stage() -> None:
    """24 layers, cuts at 2 and 8: attentions of 2, 6 and 16 layers, MLPs of 1, 6 and 16, and one on the last row."""
    facts = record("chain", CHAIN).bundle
    assert facts is not None

    def attention(rows: int) -> int:
        return layer_flops(DECODER, rows).gated - mlp_flops(DECODER, rows)

    dense = 24 * attention(640) + mlp_flops(DECODER, 23 * 640 + 1)
    own = 2 * attention(640) + 6 * attention(352) + 16 * attention(208)
    own += mlp_flops(DECODER, 640 + 6 * 352 + 16 * 208 + 1)
    assert prefill_bound(facts, 640, LENGTHS) == pytest.approx(dense / own)
    row = 2 * 2 * 64 * 4  # bytes of a layer's keys and values of a token
    step = 1_400_000_000 + row * (2 * 640 + 6 * 352 + 16 * 208)
    assert decode_bound(facts, 640, LENGTHS) == pytest.approx((1_400_000_000 + row * 24 * 640) / step)


def test_a_prediction_is_the_sum_of_the_stages() -> None:
    decoder = decoder_of(640, 10)
    plan = PRUNED.model_copy(update={"cuts": (*one_cut(3, 0.5), *one_cut(7, 0.25))})
    profile = profile_of(decoder_of(256, 6), decoder_of(896, 12))
    found = predict(profile, decoder, plan, 640, LENGTHS)

    def ms(layers: int, mlps: int, rows: int, head: bool = False, cached: int = 0) -> float:
        point = whole(decoder, rows=rows, cached=cached)
        return machine(point.model_copy(update={"layers": layers, "mlps": mlps, "head": head}))

    # The prefix leaves its last MLP to the middle, and that one its own to the suffix.
    assert found["prefill"] == pytest.approx(ms(3, 2, 640) + ms(4, 4, 352) + ms(3, 4, 208, head=True), rel=1e-3)
    decode = ms(3, 2, 1, cached=640) + ms(4, 4, 1, cached=352) + ms(3, 4, 1, head=True, cached=208)
    assert found["decode"] == pytest.approx(decode, rel=1e-3)


def test_a_probe_has_a_point_for_every_stage(tiny_chain: Path) -> None:
    pipeline = Pipeline.load(tiny_chain, threads=1)
    found = probe(pipeline)
    prompts = [each for each in found if each.rows > 1]
    assert {(each.layers, each.mlps, each.head) for each in prompts} == {(1, 0, False), (2, 2, False), (2, 3, True)}
    assert all(each.ms > 0 for each in found) and sum(each.rows == 1 for each in found) == 2
    fit(found, pipeline.bundle.manifest.plan, device="", backend="", threads=1, dialect="ort")


def test_the_curve_has_plans_that_differ_in_the_last_cut_alone() -> None:
    """And where the last leaves more, in those before it as `keeps` has it."""
    other = CHAIN.model_copy(update={"cuts": (*one_cut(2, 0.4), *one_cut(8, 0.25))})
    plans = {
        "dense": DENSE,
        "tenth": with_keep(CHAIN, 0.1),
        "quarter": CHAIN,
        "most": with_keep(CHAIN, 0.8),
        "other": other,
        "single": PRUNED,
    }
    turns = {name: [turn(60, pruned=[200] * len(plan.cuts))] * 2 for name, plan in plans.items()}
    plot = keep_plot(report_of(turns, plans=plans))
    assert plot is not None
    assert [f"{name}, 576 visual tokens" in plot for name in plans] == [True, True, True, True, False, False]


def test_the_page_says_what_stages_of_a_chain_are() -> None:
    words = "all layers behind the first cut"
    chain = report_of({"dense": [turn()], "chain": [turn(pruned=LENGTHS)]}, plans={"dense": DENSE, "chain": CHAIN})
    assert words in page(chain) and words not in page(report_of({"dense": [turn()], "pruned": [turn()]}))
    result = chain.result("chain", "576 visual tokens")
    assert result is not None and (result.pruned_length, result.pruned_lengths) == (208, (352, 208))


def test_a_chain_is_measured_at_several_keeps(
    tiny_chain: Path,
    tiny_llava: Path,
    make_bundle: MakeBundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepare, "measure_memory", lambda *arguments: None)
    dense = make_bundle(tiny_llava, prune=False, max_text=64, max_new_tokens=16)
    out, drawn = tmp_path / "report.json", tmp_path / "report.html"
    quick = ["--rounds", "2", "--warmup", "0", "--max-new-tokens", "2", "--threads", "1"]
    keeps = ["--keep", "0.1", "0.6", "--length", "exact"]
    command.main([str(dense), str(tiny_chain), "--json", str(out), "--report", str(drawn), *keeps, *quick])
    report = read_report(out)
    _, least, most = report.runners
    assert least.settings["plan"].startswith("K=1, keep 0.5; K=3, keep 0.1, ranker fastv (exported with keep 0.2)")
    assert most.settings["plan"].startswith("K=1, keep 0.6; K=3, keep 0.6, ranker fastv (exported with keep 0.2)")
    workload = report.workloads[1]
    text = workload.prompt_tokens - 144
    for runner, kept in ((least, (72, 14)), (most, (86, 86))):
        result = report.result(runner.name, workload.name)
        assert result is not None and result.pruned_lengths == (text + kept[0], text + kept[1])
        assert set(result.predicted) == {"prefill", "ttft", "decode"}
        ratio = report.ratio(runner.name, workload.name, "prefill")
        assert runner.bundle is not None and ratio is not None
        assert ratio.bound == pytest.approx(prefill_bound(runner.bundle, workload.prompt_tokens, result.pruned_lengths))
    assert not report.notes and least.name in capsys.readouterr().out
    assert "all layers behind the first cut" in drawn.read_text(encoding="utf-8")
    command.main(["--compare", str(out), str(out)])
    assert "0 worse beyond noise" in capsys.readouterr().out
