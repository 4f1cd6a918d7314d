"""Times of bundles, in turns, what they predict of other plans, and what is no bundle of this calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastv_calib.measurement.latency import TIMED, Timing, timed
from fastv_calib.measurement.predict import Prediction, Timed
from fastv_export.calibration import BundleLatency, Latency, Spread
from fastv_export.points import KeptPoint, PointCut
from fastv_runtime.config.bundle import EMBEDDING, MANIFEST, Manifest, read_manifest
from fastv_runtime.config.cost import BYTES
from fastv_runtime.config.io_spec import io_specs
from fastv_runtime.generation.clock import STAGES
from tests.calib.calibrating import SAMPLES, calibrate, fails

HALF = KeptPoint(cuts=(PointCut(layer=2, keep=0.5, ranker="fastv"),))
OUTSIDE, FIXED, RATE = 5.0, 2.0, 1e-3


def timing(flops: int, ms: float) -> Timing:
    """5 ms of vision, `ms` in the decoder."""
    stages = dict.fromkeys(STAGES, 0.0) | {"vision": OUTSIDE, "prefix": ms / 4, "suffix": ms * 3 / 4}
    return Timing(0, stages, OUTSIDE + ms, 1.0, flops)


def timings(*flops: int, fixed: float = FIXED) -> list[list[Timing]]:
    """Of bundles that do as many FLOPs; one sample in three is slow."""
    exact = [fixed + RATE * count for count in flops]
    return [
        [timing(count, ms), timing(count, 3 * ms), timing(count, ms)] for count, ms in zip(flops, exact, strict=True)
    ]


def test_a_prediction_follows_flops() -> None:
    line = Prediction.of(timings(10_000, 20_000, 40_000))
    assert line(30_000) == pytest.approx(OUTSIDE + FIXED + 30)
    # What cannot be checked is not believed: one bundle, two, or several of equal work, give a rate alone.
    assert Prediction.of(timings(10_000, fixed=0))(30_000) == pytest.approx(OUTSIDE + 30)
    assert Prediction.of(timings(10_000, 20_000)).fixed == Prediction.of(timings(10_000, 10_100, 10_200)).fixed == 0
    # Nor is a line that noise has tilted: without the last bundle, the first two would say that all time is fixed.
    noisy = [timings(10_000, fixed=0)[0], timings(11_000, fixed=-1)[0], timings(40_000, fixed=0)[0]]
    assert Prediction.of(noisy)(20_000) == pytest.approx(OUTSIDE + 20, rel=0.05)
    # More work in less time is noise, not a negative rate.
    assert (
        Prediction.of(
            [timings(count, fixed=fixed)[0] for count, fixed in ((10_000, 20), (20_000, 0), (30_000, -20))]
        ).rate
        > 0
    )


def test_bundles_check_the_prediction() -> None:
    assert Prediction.error(timings(10_000)) is None
    assert Prediction.error(timings(10_000, 20_000, 40_000)) == pytest.approx(0)
    # 12 ms inside at 10 000, 22 at 20 000: by its rate alone the first predicts 24, the second 11.
    assert Prediction.error(timings(10_000, 20_000)) == pytest.approx(2 / 27)


def test_a_bundle_of_the_plan_goes_before_a_prediction() -> None:
    spread = Spread(median=70, low=60, high=80)
    bundle = BundleLatency(
        name="a.fastv",
        point=KeptPoint(cuts=()),
        kind="float32",
        samples=3,
        ttft=spread,
        per_token=spread,
        stages={},
    )
    times = Timed(Latency(bundles=(bundle,), error=None), {"fp32": Prediction(OUTSIDE, FIXED, RATE)})
    unpruned = times.ttft(KeptPoint(cuts=()), 1000)
    assert unpruned is not None and (unpruned.ms, unpruned.measured) == (70, True)
    other = times.ttft(HALF, 1000)
    assert other is not None and (other.ms, other.measured) == (pytest.approx(OUTSIDE + FIXED + 1), False)
    # What no bundle has predicts nothing.
    assert times.ttft(HALF.model_copy(update={"precision": "int8"}), 1000) is None


def test_timed_samples_are_spread() -> None:
    some: list[int] = timed(range(1000))  # type: ignore[arg-type, assignment]
    assert len(some) == TIMED and some[0] == 0 and some[-1] == 999
    assert np.ptp(np.diff(some)) <= 1
    assert timed([1, 2]) == [1, 2]  # type: ignore[list-item, comparison-overlap]


def test_plans_are_timed(
    tiny_llava: Path,
    tiny_bundle: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, page = tmp_path / "calibration.json", tmp_path / "report.html"
    asked = ("--bundle", str(tiny_bundle), "--max-ttft")
    calibration = calibrate(tiny_llava, data, output, *asked, "60000", "--report", str(page))
    assert calibration.latency is not None and calibration.latency.error is None
    (bundle,) = calibration.latency.bundles
    assert (bundle.name, str(bundle.point), bundle.samples) == (tiny_bundle.name, "K=2 keep 0.5 fastv", SAMPLES)
    assert 0 < bundle.ttft.low <= bundle.ttft.median <= bundle.ttft.high and bundle.per_token.median > 0
    times = {str(plan.point): plan.ttft for plan in calibration.plans}
    measured = [name for name, time in times.items() if time is not None and time.measured]
    assert measured == ["K=2 keep 0.5 fastv"]
    ms = {name: time.ms for name, time in times.items() if time is not None}
    assert ms["K=2 keep 0.5 fastv"] == bundle.ttft.median
    # A prediction is arithmetic over the timings: dearer plans take longer.
    assert ms["K=1 keep 0.1 fastv"] < ms["K=2 keep 0.1 fastv"] < ms["K=2 keep 0.5 random"] < ms["unpruned"]
    assert any("predicted: export it and give" in warning for warning in calibration.warnings)
    html = page.read_text()
    assert "One bundle cannot check it" in html and f"{tiny_bundle.name}: K=2 keep 0.5 fastv" in html

    error = fails(capsys, tiny_llava, data, output, *asked, "0.001")
    assert "--min-agreement 0.1 and --max-ttft 0.001 contradict each other: the fastest plan that agrees, K=" in error
    assert calibrate(tiny_llava, data, output).latency is None


def test_what_is_no_bundle_of_it(
    tiny_llava: Path,
    tiny_bundle: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "calibration.json"
    error = fails(capsys, tiny_llava, data, output, "--max-ttft", "10")
    assert "--max-ttft 10: nothing tells how long a plan takes: add --bundle" in error
    error = fails(capsys, tiny_llava, data, output, "--bundle", str(tiny_bundle), "--max-ttft", "0")
    assert "--max-ttft 0: must be above 0" in error
    assert not output.with_suffix(".samples.jsonl").exists()

    whole = read_manifest(tiny_bundle)
    manifest = json.loads(whole.model_dump_json())
    small = whole.vision.model_copy(update={"image_width": 8, "image_height": 8})
    fp16 = whole.plan.model_copy(update={"precision": "float16"})

    def consistent(name: str, other: Manifest) -> str:
        """With the graphs and files that the rest of it asks for."""
        specs = io_specs(other.decoder, other.vision, other.video, other.plan, other.plan.precision)
        graphs = {
            graph: spec.model_copy(update={"inputs": specs[graph][0], "outputs": specs[graph][1]})
            for graph, spec in other.graphs.items()
        }
        size = other.decoder.vocab_size * other.decoder.hidden_size * BYTES[other.embedding_dtype]
        files = other.files | {EMBEDDING: other.files[EMBEDDING].model_copy(update={"size": size})}
        (tmp_path / name).mkdir()
        text = other.model_copy(update={"graphs": graphs, "files": files}).model_dump_json()
        (tmp_path / name / MANIFEST).write_text(text)
        return str(tmp_path / name)

    def changed(name: str, **changes: object) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text(json.dumps(manifest | changes))
        return str(tmp_path / name)

    other = changed("other.fastv", source={"config.json": "0" * 64})
    assert "other.fastv: is of another checkpoint" in fails(capsys, tiny_llava, data, output, "--bundle", other)
    error = fails(capsys, tiny_llava, data, output, "--bundle", str(tiny_bundle), "--precisions", "int8", "int4")
    assert "predicts nothing of plans in int8 and int4: give --precisions fp32, or bundles exported with --pre" in error
    # As the calls above: refused before anything was measured, which binds nobody to their settings.
    assert not output.with_suffix(".samples.jsonl").exists()
    vision = consistent("vision.fastv", whole.model_copy(update={"vision": small}))
    assert "other visual tokens" in fails(capsys, tiny_llava, data, output, "--bundle", vision)
    half = consistent("half.fastv", whole.model_copy(update={"plan": fp16, "embedding_dtype": "float16"}))
    error = fails(capsys, tiny_llava, data, output, "--bundle", str(tiny_bundle), half)
    assert "of float32 and float16" in error
    error = fails(capsys, tiny_llava, data, output, "--bundle", str(tiny_bundle), str(tiny_bundle))
    assert "give each only once" in error
