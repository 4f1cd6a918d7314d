"""The export that takes what fastv-calibrate chose, and what it refuses to take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastv_export import calibration as calibration_file
from fastv_export.calibration import read_calibration
from fastv_export.checkpoint import digests
from fastv_export.cli import main as fastv_export
from fastv_export.quantization.activations import sidecar_of
from fastv_export.quantization.presets import FEW_BITS
from fastv_runtime.config.bundle import read_manifest, sha256
from fastv_runtime.errors import UserError
from tests.calib.calibrating import calibrate
from tests.tiny import write_tiny_llava


def test_an_export_takes_what_was_chosen(
    tiny_llava: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "calibration.json"
    chosen = calibrate(tiny_llava, data, output, "--precisions", "int8").chosen
    assert chosen is not None and chosen.precision == "int8"
    flags = ["--calibration", str(output), "--no-verify"]
    hashed: list[str] = []

    def counted(path: Path, *progress: Any) -> str:
        hashed.append(path.name)
        return sha256(path, *progress)

    for module in (calibration_file, digests):
        monkeypatch.setattr(module, "sha256", counted)
    capsys.readouterr()
    # One export says both: what is given wins, the rest is what was chosen.
    fastv_export([str(tiny_llava), "-o", str(tmp_path / "given.fastv"), *flags, "--length", "fixed"])
    plan = read_manifest(tmp_path / "given.fastv").plan
    assert (plan.cuts, plan.max_text) == (chosen.point.plan_cuts(), chosen.max_text)
    assert (chosen.length, plan.length) == ("exact", "fixed")
    assert hashed.count("model.safetensors") == 1  # which is gigabytes, elsewhere
    assert read_manifest(tmp_path / "given.fastv").source == read_calibration(output).source
    assert plan.weights == FEW_BITS["int8"]
    said = capsys.readouterr().err
    assert "scales by the calibration: 21 inputs of linear layers" in said
    longest = read_calibration(output).lengths.text_max
    assert (
        f"warning: --calibration: room for {chosen.max_text} text tokens instead of 128, since the longest of its 4 "
        f"prompts has {longest}: for longer ones give --max-text" in said
    )
    assert "warning: --calibration: weights" not in said  # int8 is the default as well
    sidecar = sidecar_of(output)
    sidecar.rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        fastv_export([str(tiny_llava), "-o", str(tmp_path / "other.fastv"), *flags])
    assert f"{sidecar.name}: missing" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "elsewhere").rename(sidecar)

    # What it changes besides is said before any work, and not where the user chose.
    calibration = read_calibration(output)
    unrounded = calibration.model_copy(update={"chosen": chosen.model_copy(update={"precision": "fp32"})})
    output.write_text(unrounded.model_dump_json())
    monkeypatch.setattr("fastv_export.api.export_through", _stop)
    changed = "weights in fp32, which it measured, instead of int8: for those give --precision int8"
    for more, expected in (
        (["--max-text", "100"], [f"warning: --calibration: {changed}"]),
        (["--max-text", "100", "--precision", "fp32"], []),
        (["--max-text", "100", "--target", "trt"], []),  # fp16 in any case
    ):
        with pytest.raises(SystemExit):
            fastv_export([str(tiny_llava), "-o", str(tmp_path / "other.fastv"), *flags, *more])
        said = capsys.readouterr().err
        assert "stopped" in said
        assert [line for line in said.splitlines() if line.startswith("warning: --calibration")] == expected

    other = write_tiny_llava(tmp_path / "other", seed=1)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        fastv_export([str(other), "-o", str(tmp_path / "other.fastv"), *flags])
    assert ended.value.code == 2
    assert "is of another checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "other.fastv").exists()


def _stop(*arguments: object, **options: object) -> None:
    raise UserError("stopped")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "run fastv-calibrate again"),
        ('{"schema_version": 4}', "schema version 4, this program reads 5: run fastv-calibrate again"),
        (None, "no such calibration"),
    ],
)
def test_an_export_refuses_what_is_no_calibration(
    text: str | None, expected: str, tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "calibration.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit):
        fastv_export([str(tiny_llava), "-o", str(tmp_path / "x.fastv"), "--calibration", str(file)])
    assert expected in capsys.readouterr().err
