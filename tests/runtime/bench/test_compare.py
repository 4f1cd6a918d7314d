"""Two reports: what is worse beyond noise, and what cannot be judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fastv_runtime.bench.analysis.compare import compare, outcome
from fastv_runtime.bench.analysis.statistics import figure
from fastv_runtime.bench.models import Report
from fastv_runtime.cli import bench as command
from tests.runtime.bench.runners import KEPT, QUIET, TEXT, report_of, turn

NOISE = (0.97, 0.99, 1.0, 1.01, 1.03)


def measured(pruned: float = 60.0, *, decode: float = 10.0, machine: Sequence[float] = NOISE) -> Report:
    """A dense prefill of 100 ms beside a pruned one, on a machine that is that much slower round by round."""
    return report_of(
        {
            "dense": [turn(100 * each, decode=10 * each) for each in machine],
            "pruned": [turn(pruned * each, decode=decode * each, pruned=TEXT + KEPT) for each in machine],
        }
    )


def test_two_runs_of_the_same_agree() -> None:
    found = compare(measured(), measured(machine=[0.98, 1.0, 1.02, 1.01, 0.96]))
    assert {change.outcome for change in found.changes} == {"same"}
    assert not found.environment and not found.caveats and not found.missing


def test_a_regression_is_found_where_it_is() -> None:
    found = compare(measured(), measured(80))
    worse = {each.quantity for each in found.worse}
    assert worse >= {"ttft", "prefill", "gain of ttft", "gain of prefill"}
    assert not worse & {"vision", "decode", "gain of decode", "memory"}
    assert {each.runner for each in found.worse} == {"pruned"}
    assert {each.outcome for each in compare(measured(80), measured()).changes} == {"same", "better"}
    (slower,) = {each.runner for each in compare(measured(), measured(decode=12)).worse}
    assert slower == "pruned"


def test_intervals_that_touch_are_the_same() -> None:
    assert outcome(figure([1, 2, 3]), figure([2.5, 3, 4])) == "same"
    assert outcome(figure([1, 2]), figure([3, 4])) == "worse"
    assert outcome(figure([1, 2]), figure([3, 4]), more_is_better=True) == "better"


def test_on_another_machine_ratios_are_judged_and_seconds_are_not() -> None:
    slower = measured(machine=[3 * each for each in NOISE])
    other = slower.environment.model_copy(update={"jetson": {"power_mode": "15W"}})
    found = compare(measured(), slower.model_copy(update={"environment": other}))
    assert found.environment == ("jetson power_mode: MAXN_SUPER before, 15W now",)
    assert not found.worse
    assert {each.outcome for each in found.changes if each.quantity == "ttft"} == {"not judged"}
    worse = measured(90, machine=[3 * each for each in NOISE]).model_copy(update={"environment": other})
    assert {each.quantity for each in compare(measured(), worse).worse} >= {"gain of prefill"}


def test_memory_that_grew_is_worse() -> None:
    old = measured()
    grown = [
        each.model_copy(update={"memory": each.memory.model_copy(update={"process": 2200 << 20})})  # type: ignore
        for each in old.runners
    ]
    found = compare(old, old.model_copy(update={"runners": tuple(grown)}))
    assert {each.quantity for each in found.worse} == {"memory"}


def test_noise_and_what_is_missing_are_said() -> None:
    noisy = report_of({"dense": [turn()] * 3}, conditions=QUIET.model_copy(update={"load_of_others": 0.5}))
    found = compare(measured(), noisy.model_copy(update={"complete": False}))
    assert found.missing == ("pruned, 576 visual tokens",)
    assert found.caveats[0] == "the new report is of an interrupted run"
    assert found.caveats[1].startswith("the new machine was noisy: other programs took 50%")


@pytest.mark.parametrize(("pruned", "code"), [(60.0, None), (80.0, 1)])
def test_the_exit_code_is_for_ci(
    pruned: float, code: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(measured().model_dump_json())
    new.write_text(measured(pruned).model_dump_json())
    try:
        command.main(["--compare", str(old), str(new)])
        found = None
    except SystemExit as end:
        found = end.code
    assert found == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert "worse beyond noise" in last and last.startswith("0 ") == (code is None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory: give the JSON that fastv-bench of this version wrote"),
        ("", "not JSON: line 1, column 1: "),
        ("{}", "schema_version is missing"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_what_is_no_report_is_refused(
    text: str | bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit) as caught:
        command.main(["--compare", str(path), str(path)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
