"""fastv-calibrate with chains of cuts, baselines and kinds of questions, and the export that takes a chosen chain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastv_calib.choice.beside import beside
from fastv_calib.report.page import chosen_plan
from fastv_export.api import export
from fastv_export.calibration import Calibration
from fastv_runtime.errors import UserError
from tests.calib.calibrating import SAMPLES, calibrate
from tests.conftest import noise_image

KINDS = ["count", "place", "count", None]


@pytest.fixture(scope="module")
def found(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, Path]:
    """A calibration of two chains, the cheapest of which is chosen, and where it lies with its report."""
    folder = tmp_path_factory.mktemp("chains")
    lines = []
    for index, kind in enumerate(KINDS):
        noise_image(index).save(folder / f"{index}.png")
        line = {"image": f"{index}.png", "prompt": "Where is it?", "answer": "dog"}
        lines.append(json.dumps(line | ({} if kind is None else {"kind": kind})))
    (folder / "data.jsonl").write_text("\n".join(lines))
    calibration = calibrate(
        tiny_llava,
        folder / "data.jsonl",
        folder / "calibration.json",
        *("--layers", "2", "--keeps", "0.25", "--rankers", "fastv", "--report", str(folder / "report.html")),
        *("--cuts", "1:0.5+2:0.25", "1:0.3:dart+3:0.1:fastv+uniform"),
    )
    return calibration, folder


def test_chains_are_measured_and_chosen(found: tuple[Calibration, Path]) -> None:
    calibration, folder = found
    assert [str(plan.point) for plan in calibration.plans] == [
        "K=2 keep 0.25 fastv",
        "1:0.5+2:0.25 fastv",
        "1:0.3:dart+3:0.1:fastv+uniform",
        "unpruned",
    ]
    single, two, mixed, _ = calibration.plans
    assert single.flops > two.flops > mixed.flops
    chosen = chosen_plan(calibration)
    assert chosen is mixed and calibration.chosen is not None
    room = calibration.chosen.max_text
    assert calibration.chosen.fixed_lengths == (room + 43, room + 14)
    html = (folder / "report.html").read_text()
    assert "fixed pruned length" in html and f"{room + 43}, then {room + 14}" in html
    assert "30% from layer 1 on" in html and "10% from layer 3 on" in html  # both cuts over the attention
    assert "after the last cut, at K=3, keep 0.1" in html


def test_baselines_and_kinds_are_shown_beside(found: tuple[Calibration, Path]) -> None:
    calibration, folder = found
    (pooled,) = calibration.baselines  # every image of this family becomes as many tokens
    assert (str(pooled), pooled.samples, pooled.visual_share, pooled.tower_share) == (
        "pooled keep 0.25",
        SAMPLES,
        0.25,
        1,
    )
    assert calibration.plans[0].flops_share > pooled.flops_share
    for figures in (*calibration.plans, pooled):
        assert {kind: each.samples for kind, each in figures.kinds.items()} == {"count": 2, "place": 1}
        assert all(each.accuracy is not None for each in figures.kinds.values())
    shown = beside(calibration, calibration.plans[2])
    assert shown.single is calibration.plans[0] and shown.baselines == (pooled,)
    assert beside(calibration, calibration.plans[0]).single is None
    html = (folder / "report.html").read_text()
    assert "<td>count (2)</td>" in html and "<td>place (1)</td>" in html and "pooled keep 0.25" in html
    assert "A smaller image is not available for this family" in html


@pytest.mark.parametrize(
    ("given", "cuts", "said"),
    [
        ({}, "1:0.3:dart 3:0.1:fastv+uniform", None),
        ({"ranker": "dart"}, "1:0.3:dart 3:0.1:dart", None),
        ({"layer": 2}, "2:0.4:fastv", "`layer` says where"),
        ({"keep": 0.4, "ranker": "dart"}, "1:0.4:dart", "`keep` says where"),
        ({"cuts": [(1, 0.9), (2, 0.2)]}, "1:0.9:fastv 2:0.2:fastv", "`cuts` says where"),
    ],
)
def test_explicit_cuts_are_instead_of_all_that_were_chosen(
    given: dict[str, object],
    cuts: str,
    said: str | None,
    found: tuple[Calibration, Path],
    tiny_llava: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from fastv_export.plan.cuts import cuts_of

    seen = []

    def stop(*arguments: object, **named: object) -> None:
        seen.append(arguments[3])
        raise UserError("stopped")

    monkeypatch.setattr("fastv_export.api.export_through", stop)
    with pytest.raises(UserError, match="stopped"), caplog.at_level("INFO", logger="fastv_export"):
        export(tiny_llava, tmp_path / "x.fastv", calibration=found[1] / "calibration.json", **given)  # type: ignore[arg-type]
    assert " ".join(f"{cut.layer}:{cut.keep:g}:{cut.ranker}" for cut in cuts_of(seen[0], 5)) == cuts
    unused = [line for line in caplog.messages if "is not used" in line]
    assert len(unused) == (said is not None) and all(said in line for line in unused if said)
    replaced = any("`ranker` dart in place of dart and fastv+uniform" in line for line in caplog.messages)
    assert replaced == (given == {"ranker": "dart"})


def test_kept_masks_are_those_after_the_last_cut(found: tuple[Calibration, Path]) -> None:
    from fastv_calib.samples.masks import unpacked

    lines = (found[1] / "calibration.samples.jsonl").read_text().splitlines()[1:]
    for line in map(json.loads, lines):
        masks = unpacked(line["kept"], 3, line["visual"])
        assert masks.sum(1).tolist() == [36, 36, 14]
        assert np.flatnonzero(masks[2]).size == 14
