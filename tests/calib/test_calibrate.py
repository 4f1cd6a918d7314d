"""fastv-calibrate as people type it, and the export that takes what it chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from fastv_export.calibration import Calibration, read_calibration
from fastv_export.quantization.activations import sidecar_of
from tests.calib.calibrating import SAMPLES, calibrate, fails
from tests.conftest import noise_image
from tests.families.rows import ROWS
from tests.families.rows.video_llava import TOKENS, write_tiny_video_llava
from tests.runtime.test_video import video


def test_figures_of_every_plan(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, page = tmp_path / "calibration.json", tmp_path / "report.html"
    calibration = calibrate(tiny_llava, data, output, "--json", "--report", str(page))
    assert Calibration.model_validate_json(capsys.readouterr().out) == calibration
    assert calibration.samples == calibration.answers == SAMPLES
    assert [str(plan.point) for plan in calibration.plans] == [
        *(f"K={layer} keep {keep} {name}" for layer in (1, 2) for keep in (0.5, 0.1) for name in ("fastv", "random")),
        "unpruned",
    ]
    *plans, unpruned = calibration.plans
    assert unpruned.match.mean == unpruned.flops_share == unpruned.cache_share == 1
    assert unpruned.kl.high == 0
    for plan in plans:
        assert plan.flops_share < 1 and plan.cache_share < 1 and plan.memory_bytes < unpruned.memory_bytes
        assert plan.match.low <= plan.match.mean <= plan.first_token.mean <= 1
        assert plan.kl.low <= plan.kl.mean <= plan.kl.high and plan.kl.mean > 0
        assert plan.accuracy is not None and plan.accuracy.mean <= plan.match.mean
    assert len(calibration.attention) == 5 and all(0 < share < 1 for share in calibration.attention)
    lengths = calibration.lengths
    assert lengths.text_p50 < lengths.text_p95 == lengths.text_max and lengths.visual_max == 144
    chosen = calibration.chosen
    assert chosen is not None and chosen.point.ranker == "fastv"
    assert lengths.text_max <= chosen.max_text < lengths.text_max + 16
    assert chosen.fixed_lengths == (chosen.max_text + round(144 * chosen.cuts[0].keep),)
    html = page.read_text()
    assert "<svg" in html and "K=2 keep 0.5 fastv" in html and str(output) in html
    assert html.count('<svg class="kept"') == SAMPLES  # fewer than there are places for
    assert html.count("data:image/jpeg;base64,") == html.count("<image") == SAMPLES
    # Nothing is loaded, and the page forbids it too.
    assert "default-src 'none'; img-src data:" in html
    assert not any(loads in html for loads in ("src=", "http:", "https:", "url(", "@import"))


def test_an_interrupted_sweep_goes_on(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastv_calib.measurement import measure

    whole, halted = tmp_path / "whole.json", tmp_path / "halted.json"
    calibrate(tiny_llava, data, whole)
    opened = 0

    def interrupted(path: Path, real: Any = measure.open_image) -> Any:
        nonlocal opened
        opened += 1
        if opened == 3:
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(measure, "open_image", interrupted)
        calibrate(tiny_llava, data, halted)
    assert ended.value.code == 130
    assert not halted.exists()
    lines = halted.with_suffix(".samples.jsonl")
    assert len(lines.read_text().splitlines()) == 1 + 2
    with lines.open("a") as file:
        file.write('{"key": "cut sho')
    with monkeypatch.context() as patch:
        opened = 3
        patch.setattr(measure, "open_image", interrupted)
        calibrate(tiny_llava, data, halted)
    assert opened == 3 + SAMPLES - 2
    assert halted.read_bytes() == whole.read_bytes()
    assert lines.read_bytes() == whole.with_suffix(".samples.jsonl").read_bytes()
    assert sidecar_of(halted).read_bytes() == sidecar_of(whole).read_bytes()
    # What was lost, or is of other measurements, is measured again, and that alone.
    first, second = sorted(halted.with_suffix(".activations").iterdir())[:2]
    first.write_bytes(b"torn")
    second.write_bytes(save({"x": np.zeros(1)}, {"measurements": "others"}))
    with monkeypatch.context() as patch:
        opened = 3
        patch.setattr(measure, "open_image", interrupted)
        calibrate(tiny_llava, data, halted)
    assert opened == 3 + 2
    assert halted.read_bytes() == whole.read_bytes()
    assert sidecar_of(halted).read_bytes() == sidecar_of(whole).read_bytes()
    assert lines.read_bytes() == whole.with_suffix(".samples.jsonl").read_bytes()


def test_objectives(tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "calibration.json"
    easy = calibrate(tiny_llava, data, output)
    candidates = [plan for plan in easy.plans if plan.point.ranker == "fastv"]
    cheapest = min(candidates, key=lambda plan: plan.flops)
    assert easy.chosen is not None and str(easy.chosen.point) == "K=1 keep 0.1 fastv"
    assert cheapest.match.high >= 0.1
    (warning,) = easy.warnings
    assert "K=1 keep 0.1 fastv matches on 0.0% of 4 samples" in warning

    # A plan is dear enough only if the interval's upper end reaches the target.
    best = max(plan.match.high for plan in candidates)
    assert best < 1, "the tiny model must fail sometimes, or this tests nothing"
    error = fails(capsys, tiny_llava, data, output, "--min-agreement", "1")
    assert "--min-agreement 1: no plan meets it; the best, K=" in error and str(output) in error
    kept = read_calibration(output)
    assert kept.chosen is None and kept.plans == easy.plans

    gib = min(plan.memory_bytes for plan in candidates) / 2**30
    error = fails(capsys, tiny_llava, data, output, "--max-memory", str(gib * 0.999))
    assert "contradict each other" in error
    error = fails(capsys, tiny_llava, data, output, "--max-memory", "0.0001")
    assert "the weights alone take" in error
    assert calibrate(tiny_llava, data, output, "--max-memory", str(gib)).chosen == easy.chosen


def test_precisions(tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answers compared with are those of fp32; of plans with as many FLOPs the smallest that agrees is chosen."""
    output, small = tmp_path / "calibration.json", ["--layers", "2", "--keeps", "0.5"]
    plain = calibrate(tiny_llava, data, output, *small)
    capsys.readouterr()
    both = calibrate(tiny_llava, data, tmp_path / "both.json", *small, "--precisions", "fp32", "int4", "int8")
    said = capsys.readouterr().err
    names = ["K=2 keep 0.5 fastv", "K=2 keep 0.5 random"]
    assert [str(plan.point) for plan in both.plans] == [
        *names,
        *(f"{name} {bits}" for bits in ("int4", "int8") for name in ("unpruned", *names)),
        "unpruned",
    ]
    assert (*both.plans[:2], both.plans[-1]) == plain.plans
    unpruned = {plan.point.precision: plan for plan in both.plans if not plan.point.cuts}
    assert unpruned["fp32"].kl.mean == 0 < unpruned["int8"].kl.mean
    weights = {name: plan.memory_bytes for name, plan in unpruned.items()}
    assert weights["int4"] < weights["int8"] < weights["fp32"]
    chosen = both.chosen
    assert chosen is not None and plain.chosen is not None
    pruned = [plan for plan in both.plans if str(plan.point).startswith(names[0])]
    smallest = min(pruned, key=lambda plan: plan.memory_bytes)
    assert (chosen.precision, plain.chosen.precision) == (smallest.point.precision, "fp32")
    assert f"both.json: {smallest.point}: " in said
    assert both.plans.index(smallest) in both.pareto and smallest.point.precision != "fp32"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--precisions", "fp16"], "--precisions fp16: must be fp32, int8 or int4"),
        (["--layers", "5"], "--layers 5: must be 1 to 4"),
        (["--layers"], "--layers: is empty: give one or more, or --cuts"),
        (["--cuts", "1:0.5+5:0.2"], "--cuts 5: must be 1 to 4"),
        (["--cuts", "2:0.5+1:0.2"], "--cuts 2:0.5:fastv+1:0.2:fastv: layers must rise and fractions kept"),
        (["--cuts", "1:0.5+2:0.5"], "which are of all visual tokens, must fall"),
        (["--cuts", "1:0.5:best"], "--cuts 1:0.5:best: no such ranker; there are fastv"),
        (["--cuts", "1:0.5:fastv"], "--cuts 1:0.5:fastv: is measured already"),
        (["--cuts", "1:1+2:0.5"], "--cuts 1:1: the fraction kept must be above 0 and below 1"),
        (["--cuts", "1-0.5"], "--cuts 1-0.5: must be LAYER:KEEP, as 7:0.33, or LAYER:KEEP:RANKER"),
        (["--baselines", "smaller-image"], "--baselines smaller-image: not available for this family"),
        (["--keeps", "1"], "--keeps 1: must be above 0 and below 1"),
        (["--rankers", "best"], "--rankers best: must be fastv, random, uniform"),
        (["--rankers", "random"], "a control is not chosen"),
        (["--keeps", "0.5", "0.5"], "give each only once"),
        (["--min-agreement", "99"], "--min-agreement 99: must be above 0 and at most 1"),
        (["--answer-tokens", "0"], "--answer-tokens 0: must be a whole number, 1 to 1,000,000"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0: must be a whole number, 1 to 1,000,000"),
    ],
)
def test_bad_flags(
    flags: list[str],
    expected: str,
    tiny_llava: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert expected in fails(capsys, tiny_llava, data, tmp_path / "calibration.json", *flags)


def test_measurements_of_other_settings_are_not_mixed(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "calibration.json"
    calibrate(tiny_llava, data, output)
    assert "by other settings" in fails(capsys, tiny_llava, data, output, "--keeps", "0.3")
    lines = output.with_suffix(".samples.jsonl")
    lines.write_text(lines.read_text() + "{}\n")
    assert f"{lines.name}:{SAMPLES + 2}: not a line" in fails(capsys, tiny_llava, data, output)


def test_a_damaged_image_is_named_and_nothing_is_lost(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise_image(0).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    lines = [{"image": f"{name}.png", "prompt": "What?"} for name in ("good", "bad")]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path / "calibration.json"
    assert "data.jsonl:2: " in fails(capsys, tiny_llava, tmp_path / "data.jsonl", output)
    assert len(output.with_suffix(".samples.jsonl").read_text().splitlines()) == 2


def test_one_sample(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.jsonl"
    (tmp_path / "0.png").write_bytes((data.parent / "0.png").read_bytes())
    first.write_text(data.read_text().splitlines()[0])
    output, page = tmp_path / "calibration.json", tmp_path / "report.html"
    calibration = calibrate(tiny_llava, first, output, "--min-agreement", "0.2", "--report", str(page))
    assert calibration.samples == 1 and calibration.chosen is not None
    assert any("give more samples" in warning for warning in calibration.warnings)
    assert page.read_text().count('<svg class="kept"') == 1


def test_a_model_that_says_nothing(tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "calibration.json"
    calibrate(tiny_llava, data, output)
    lines = output.with_suffix(".samples.jsonl")
    header, first, *rest = lines.read_text().splitlines()
    lines.write_text("\n".join([header, json.dumps(json.loads(first) | {"answer": ""}), *rest]) + "\n")
    assert any("empty on 1 of 4 samples" in warning for warning in calibrate(tiny_llava, data, output).warnings)


def test_rankers_that_no_export_can_have(
    tiny_llava: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As of an attention whose queries and keys come of one product.
    monkeypatch.setattr("fastv_export.tracing.pre_rope.projections", lambda attention: {})
    error = fails(capsys, tiny_llava, data, tmp_path / "calibration.json", "--rankers", "fastv", "pre-rope")
    assert "`ranker` pre-rope: family llava projects queries and keys in one linear layer" in error


def test_a_folder_with_positions_of_three_axes(tmp_path: Path) -> None:
    next(row for row in ROWS if row.model_type == "qwen2_vl").write(tmp_path / "checkpoint")
    (tmp_path / "images").mkdir()
    for index, size in enumerate([(56, 40), (104, 24)]):
        noise_image(index, size).save(tmp_path / "images" / f"{index}.png")
    output = tmp_path / "calibration.json"
    calibration = calibrate(
        tmp_path / "checkpoint",
        tmp_path / "images",
        output,
        *("--prompt", "What is it?", "--image-tokens", "64", "--report", str(tmp_path / "report.html")),
    )
    assert calibration.lengths.visual_max == 39
    assert all(plan.accuracy is None for plan in calibration.plans)
    assert calibration.chosen is not None and calibration.chosen.image_tokens == 64
    page = (tmp_path / "report.html").read_text()
    # Each image by its own shape and grid (visual tokens of 4 x 4 pixels), and both on one map.
    assert 'viewBox="0 0 7 5"' in page and 'viewBox="0 0 13 3"' in page and "laid over each other" in page


def test_videos(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_video_llava(tmp_path / "checkpoint")
    noise_image(0).save(tmp_path / "a.png")
    frames = [np.asarray(noise_image(index)) for index in range(9)]
    for name, count in (("long", 9), ("short", 3)):
        (tmp_path / f"{name}.mp4").write_bytes(video("mp4", "mpeg4", frames[:count]))
    shown = [{"image": "a.png"}, {"video": "long.mp4"}, {"video": "short.mp4"}]
    data, output = tmp_path / "data.jsonl", tmp_path / "calibration.json"
    data.write_text("".join(json.dumps(each | {"prompt": "What happens?"}) + "\n" for each in shown))
    page = tmp_path / "report.html"
    calibrate(tmp_path / "checkpoint", data, output, "--report", str(page))
    assert "4 more views not shown" in page.read_text()  # of eight frames
    assert "8 frames were asked for and the video has 3" in " ".join(capsys.readouterr().err.split())
    lines = output.with_suffix(".samples.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line)["visual"] for line in lines] == [TOKENS, 8 * (TOKENS + 1), 3 * (TOKENS + 1)]
    assert "data.jsonl:2: llava models take no video" in fails(capsys, tiny_llava, data, tmp_path / "x.json")


def test_nothing_is_replaced_but_calibrations_and_reports(
    tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes, image, output = tmp_path / "notes.json", tmp_path / "page.png", tmp_path / "calibration.json"
    notes.write_text('{"mine": 1}')
    image.write_bytes(b"\x89PNG mine")
    before = data.read_bytes()
    for written, flags, said in (
        (data, [], f"--output {data}: --data is the same file"),
        (notes, [], f"--output {notes}: exists and is no calibration"),
        (output, ["--report", str(output)], f"--report {output}: --output is the same file"),
        (output, ["--report", str(image)], f"--report {image}: exists and is no HTML page"),
    ):
        assert said in fails(capsys, tiny_llava, data, written, *flags)
    assert (data.read_bytes(), notes.read_text(), image.read_bytes()) == (before, '{"mine": 1}', b"\x89PNG mine")
    assert not output.exists()
