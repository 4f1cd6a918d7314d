"""Device profiles: fitted rates foretell what they were not fitted to, of a machine that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastv_runtime import Pipeline, UserError
from fastv_runtime.bench.analysis.device_profile import ProbePoint, fit, kind, predict, read_profile, run_ms
from fastv_runtime.bench.analysis.prediction import predicted
from fastv_runtime.bench.runners.probe import probe
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.plan import Weights
from tests.runtime.bench.runners import DECODER, DENSE, KEPT, PRUNED, TEXT, VISUAL, WORKLOAD, report_of, turn


def decoder_of(width: int, layers: int) -> DecoderConfig:
    return DECODER.model_copy(
        update={
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "intermediate_size": 5 * width,
        }
    )


def machine(point: ProbePoint) -> float:
    """Milliseconds of a device: 100 multiply-adds a nanosecond in products, 20 in attention, 10 bytes a nanosecond."""
    decoder, rows = point.decoder, point.rows
    heads = decoder.num_attention_heads + decoder.num_key_value_heads
    attended = point.layers * decoder.hidden_size * 2 * heads * decoder.head_dim
    mlp = 3 * decoder.hidden_size * decoder.intermediate_size
    weights = attended + point.mlps * mlp
    head = decoder.hidden_size * decoder.vocab_size if point.head else 0
    keys = 8 * decoder.num_key_value_heads * decoder.head_dim * point.cached * point.layers
    read = 4 * (weights + head) + keys
    if rows == 1:
        return 0.02 * point.layers + read / 1e7
    attention = point.layers * 2 * rows * rows * decoder.num_attention_heads * decoder.head_dim
    products = rows * weights - (rows - 1) * mlp * point.head
    return 0.05 * point.layers + products / 1e8 + attention / 2e7 + read / 1e7


def whole(decoder: DecoderConfig, *, rows: int, cached: int) -> ProbePoint:
    layers = decoder.num_hidden_layers
    return ProbePoint(decoder=decoder, layers=layers, mlps=layers, rows=rows, head=True, cached=cached, ms=1.0)


def points(decoder: DecoderConfig) -> list[ProbePoint]:
    made = [whole(decoder, rows=rows, cached=0) for rows in (16, 64, 128, 256, 512)]
    made += [whole(decoder, rows=1, cached=cached) for cached in (16, 512)]
    return [each.model_copy(update={"ms": machine(each)}) for each in made]


def profile_of(*decoders: DecoderConfig):  # type: ignore[no-untyped-def]
    known = [point for decoder in decoders for point in points(decoder)]
    return fit(known, DENSE, device="made up", backend="ort cpu", threads=1, dialect="ort")


def test_other_widths_depths_and_lengths_are_foretold() -> None:
    profile = profile_of(decoder_of(256, 6), decoder_of(896, 12))
    assert profile.error < 1e-6
    other = decoder_of(512, 9)
    for rows, head, cached in ((333, True, 0), (96, False, 0), (1, True, 300)):
        point = ProbePoint(decoder=other, layers=7, mlps=7 + head, rows=rows, head=head, cached=cached, ms=0.0)
        assert run_ms(profile, point, DENSE) == pytest.approx(machine(point), rel=1e-3)


def test_a_plan_is_the_sum_of_its_layers() -> None:
    decoder = decoder_of(640, 10)
    profile = profile_of(decoder_of(256, 6), decoder_of(896, 12))
    plan = PRUNED.model_copy(update={"cuts": one_cut(3, 0.5)})
    found = predict(profile, decoder, plan, 640, [352])

    def ms(layers: int, mlps: int, rows: int, head: bool, cached: int = 0) -> float:
        return machine(
            ProbePoint(decoder=decoder, layers=layers, mlps=mlps, rows=rows, head=head, cached=cached, ms=0.0)
        )

    # The prefix has 3 attentions and 2 MLPs, the suffix 7 and 8.
    assert found["prefill"] == pytest.approx(ms(3, 2, 640, False) + ms(7, 8, 352, True), rel=1e-3)
    assert found["decode"] == pytest.approx(ms(3, 2, 1, False, 640) + ms(7, 8, 1, True, 352), rel=1e-3)
    dense = predict(profile, decoder, DENSE, 640, [])
    assert dense["prefill"] == pytest.approx(ms(10, 10, 640, True), rel=1e-3)


def test_no_rate_is_negative() -> None:
    noisy = [each.model_copy(update={"ms": each.ms * (0.5 if each.rows == 64 else 1)}) for each in points(DECODER)]
    profile = fit(noisy, DENSE, device="", backend="", threads=1, dialect="ort")
    assert min([*profile.prefill.values(), *profile.decode.values()]) >= 0
    assert max(profile.prefill.values()) > 0


def test_predictions_stand_beside_what_was_measured() -> None:
    report = report_of({"dense": [turn()] * 2, "pruned": [turn(60, pruned=TEXT + KEPT)] * 2})
    profile = profile_of(DECODER)
    found = {each.runner: each for each in predicted(report.results, report.rounds, report.runners, [profile])}
    expected = predict(profile, DECODER, PRUNED, TEXT + VISUAL, [TEXT + KEPT])
    assert found["pruned"].predicted["prefill"] == expected["prefill"]
    # 23 ms of the baseline's first token are no prefill.
    assert found["pruned"].predicted["ttft"] == pytest.approx(expected["prefill"] + 23)
    few = profile.model_copy(
        update={"precision": kind(DENSE.model_copy(update={"weights": Weights(bits=4, block=64)}), "ort")}
    )
    assert {str(each.predicted) for each in predicted(report.results, report.rounds, report.runners, [few])} == {"{}"}
    assert found["dense"].workload == WORKLOAD.name


def test_a_probe_runs_the_bundles_own_graphs(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    found = probe(tiny_pipeline)
    longest = tiny_pipeline.capacity.prompt
    assert {(each.layers, each.head) for each in found if each.rows > 1} == {(2, False), (3, True)}
    assert max(each.rows for each in found) == longest
    assert all(each.ms > 0 for each in found) and sum(each.rows == 1 for each in found) == 2
    manifest = tiny_pipeline.bundle.manifest
    profile = fit(found, manifest.plan, device="this", backend="ort cpu", threads=1, dialect="ort")
    path = tmp_path / "profile.json"
    path.write_text(profile.model_dump_json())
    assert read_profile(path) == profile
    path.write_text("{}")
    with pytest.raises(UserError, match="device is missing: give a file that `save_profile` wrote"):
        read_profile(path)
