"""The file of measurements: there once something was measured, and clear about whose measurements it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastv_calib.measurement.outcomes import Measured
from fastv_calib.measurement.results import Results
from fastv_export.calibration import CalibrationSettings
from fastv_export.points import PointCut
from fastv_runtime.errors import UserError

SOURCE = {"config.json": "a" * 64}
CUTS = (PointCut(layer=1, keep=0.5, ranker="fastv"), PointCut(layer=2, keep=0.25, ranker="dart"))
SETTINGS = CalibrationSettings(
    layers=(1, 2), keeps=(0.5, 0.25), rankers=("fastv",), cuts=(CUTS,), answer_tokens=16, image_tokens=None
)


def measured(key: str) -> Measured:
    return Measured(key=key, text=3, visual=4, answer="yes", correct=None, attention=(0.5,), outcomes=(), kept="")


def test_nothing_is_written_before_something_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "out.samples.jsonl"
    Results(file, SOURCE, SETTINGS, threads=1)
    assert list(tmp_path.iterdir()) == []
    results = Results(file, SOURCE, SETTINGS, threads=2)
    results.add(measured("x"))
    results.add(measured("y"))
    assert len(file.read_text().splitlines()) == 3
    again = Results(file, SOURCE, SETTINGS, threads=1)
    assert again.threads == 2
    assert list(again.measured.values()) == [measured("x"), measured("y")]


def test_measurements_of_another_version_are_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "out.samples.jsonl"
    Results(file, SOURCE, SETTINGS, threads=1).add(measured("x"))
    file.write_text(file.read_text().replace('{"version":4', '{"version":3', 1))
    with pytest.raises(UserError, match="no file of measurements of this version: remove it, or give another"):
        Results(file, SOURCE, SETTINGS, threads=1)


@pytest.mark.parametrize("left", ["", "header", "header, cut", "anything\n"])
def test_a_file_without_measurements_is_in_nobody_s_way(tmp_path: Path, left: str) -> None:
    file = tmp_path / "out.samples.jsonl"
    Results(file, SOURCE, SETTINGS, threads=1).add(measured("x"))
    header = file.read_text().splitlines(keepends=True)[0]
    file.write_text({"header": header, "header, cut": header[:20]}.get(left, left))
    other = SETTINGS.model_copy(update={"layers": (3,)})
    results = Results(file, SOURCE, other, threads=4)
    assert results.measured == {} and results.threads == 4
    results.add(measured("y"))
    assert list(Results(file, SOURCE, other, threads=1).measured) == ["y"]


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (SOURCE, {"layers": (3,)}, "has measurements by other settings, `layers` 1 2: go on with these, remove it"),
        (SOURCE, {"cuts": (CUTS[:1],)}, "settings, `cuts` 1:0.5:fastv+2:0.25:dart: go on with these, remove it"),
        (SOURCE, {"keeps": (0.75,), "image_tokens": 64}, "settings, `keeps` 0.5 0.25, `image_tokens` left out: go on"),
        ({"config.json": "b" * 64}, {}, "has measurements of another checkpoint: remove it, or give another `output`"),
    ],
)
def test_measurements_of_others_are_refused_by_what_differs(
    tmp_path: Path, source: dict[str, str], changes: dict[str, object], message: str
) -> None:
    file = tmp_path / "out.samples.jsonl"
    Results(file, SOURCE, SETTINGS, threads=1).add(measured("x"))
    before = file.read_bytes()
    with pytest.raises(UserError, match=re.escape(f"{file}: ")) as refused:
        Results(file, source, SETTINGS.model_copy(update=changes), threads=1)
    assert message in str(refused.value)
    assert file.read_bytes() == before
