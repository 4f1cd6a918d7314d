"""What `fastv_export.export` and `fastv_calib.calibrate` do beside what their commands' tests show."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fastv_calib
import fastv_export
import fastv_runtime
from fastv_calib.cli import parser as calibrate_command
from fastv_export.cli import parser as export_command
from tests.processes import run


def test_packages_are_light_until_they_are_used() -> None:
    script = (
        "import sys, fastv_export, fastv_calib; assert not {'torch', 'numpy', 'transformers'} & sys.modules.keys()\n"
        "assert callable(fastv_export.export) and callable(fastv_calib.calibrate) and 'torch' in sys.modules"
    )
    done = run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", [fastv_export, fastv_calib, fastv_runtime])
def test_everything_that_is_promised_is_there(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None
    assert not hasattr(package, "nothing_of_that_name")
    assert package.__version__ == fastv_runtime.__version__  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("function", "command"), [(fastv_export.export, export_command), (fastv_calib.calibrate, calibrate_command)]
)
def test_a_function_has_the_options_of_its_command(
    function: Callable[..., object], command: Callable[[], argparse.ArgumentParser]
) -> None:
    parameters = inspect.signature(function).parameters.keys() - {"progress"}
    assert parameters == {action.dest.removeprefix("no_") for action in command()._actions} - {"help", "json"}


@pytest.mark.parametrize("command", ["run", "inspect", "bench", "build", "serve"])
def test_a_command_says_its_version(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = __import__(f"fastv_runtime.cli.{command}", fromlist=["main"]).main
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fastv-{command} {fastv_runtime.__version__}\n"


def test_an_export_is_quiet_and_what_it_has_to_say_is_logged(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="fastv_export"):
        manifest = fastv_export.export(tiny_llava, tmp_path / "a.fastv", precision="int4", verify=False, prune=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert any("a text of the exporter's own" in line for line in caplog.messages)
    assert not manifest.plan.prunes
    assert manifest.plan.weights is not None and "first" in manifest.plan.weights.wide
    assert fastv_runtime.Bundle.open(tmp_path / "a.fastv").manifest == manifest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tensorrt"}, "`target` tensorrt: not known; there are ort, openvino, trt, trt-rtx, trt-legacy"),
        ({"precision": "int3"}, "`precision` int3: not known; there are fp32, fp16, bf16, int8, int4, fp8, nvfp4"),
        ({"precision": "int4", "block": 48}, "`block` 48: not known; there are 32, 64, 128"),
        ({"precision": "int4", "int8_parts": ["tail"]}, "`int8_parts` tail: not known"),
        ({"precision": "fp8", "target": "trt", "block": 32}, "has blocks and parts of its own: leave it out"),
        ({"length": "short"}, "`length` short: not known; there are fixed, exact"),
        ({"ranker": "best"}, "best"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, object], message: str, tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(fastv_export.UserError, match=message):
        fastv_export.export(tiny_llava, tmp_path / "a.fastv", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_calibration_that_chooses_nothing_is_written_and_returned(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.conftest import noise_image

    (tmp_path / "images").mkdir()
    for index in range(2):
        noise_image(index).save(tmp_path / "images" / f"{index}.png")
    out = tmp_path / "calibration.json"
    found = fastv_calib.calibrate(
        tiny_llava,
        tmp_path / "images",
        out,
        prompt="Where?",
        layers=[1],
        keeps=[0.01],
        rankers=["fastv"],
        answer_tokens=8,
        min_agreement=1,
    )
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert found == fastv_calib.read_calibration(out)
    assert len(found.plans) == 2
    assert found.chosen is None
    with pytest.raises(fastv_export.UserError, match="it chose no plan"):
        fastv_export.export(tiny_llava, tmp_path / "a.fastv", calibration=out)
