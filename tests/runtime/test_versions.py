"""What is installed is compared with pyproject.toml's least versions and caps, as the installed metadata has them."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping

import pytest
from packaging.requirements import Requirement

from fastv_runtime import versions
from fastv_runtime.cli.inspect import main as fastv_inspect
from fastv_runtime.cli.options.backends import backend_extras
from fastv_runtime.console import command, export_extras
from fastv_runtime.errors import UserError
from fastv_runtime.versions import untested

LINES = (
    "numpy>=1.26",
    "transformers<5.25,>=5.20",
    "onnxruntime<1.33,>=1.23; extra == 'cpu'",
    "torch<2.14,>=2.11; extra == 'export'",
    "tomli<3,>=2; python_version < '3'",
)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Pretend that these versions are installed, and nothing else."""

    def installed(found: Mapping[str, str], lines: tuple[str, ...] | None = LINES) -> None:
        def version(name: str) -> str:
            if name not in found:
                raise importlib.metadata.PackageNotFoundError(name)
            return found[name]

        def requires(name: str) -> tuple[str, ...]:
            assert name == "fastv-edge"
            if lines is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return lines

        monkeypatch.setattr(versions, "version", version)
        monkeypatch.setattr(versions, "requires", requires)

    return installed


@pytest.mark.parametrize("found", ["5.20", "5.20.0", "5.24.0", "5.24.9", "5.24.9+local"])
def test_a_tested_version_is_passed_in_silence(install, found: str) -> None:
    install({"transformers": found, "numpy": "0.1", "tomli": "1.0"})
    assert untested() is None


@pytest.mark.parametrize("found", ["5.25.0", "5.25.0rc1", "5.25.0.dev0", "6.0"])
def test_a_newer_version_is_told(install, found: str) -> None:
    install({"transformers": found})
    assert untested() == f"transformers: tested up to 5.24, found {found}"


def test_a_version_that_is_too_old_is_refused(install) -> None:
    install({"transformers": "5.19.3"})
    with pytest.raises(UserError) as refused:
        untested()
    assert str(refused.value) == (
        "transformers 5.19.3 is installed, 5.20 or newer is needed: pip install 'transformers<5.25,>=5.20'"
    )


def test_extras_are_checked_where_they_are_used(install) -> None:
    install({"transformers": "5.24.0", "onnxruntime": "1.40.0", "torch": "2.10.1"})
    assert untested() is None
    assert untested(("cpu", "gpu")) == "onnxruntime: tested up to 1.32, found 1.40.0"
    with pytest.raises(UserError, match=r"^torch 2\.10\.1 is installed"):
        untested(("export",))


def test_several_newer_versions_make_one_line(install) -> None:
    install({"transformers": "5.30.0", "onnxruntime": "1.33.0"})
    told = untested(("cpu",))
    assert told == "transformers: tested up to 5.24, found 5.30.0; onnxruntime: tested up to 1.32, found 1.33.0"


def test_what_is_not_installed_is_no_error(install) -> None:
    install({})
    assert untested(("cpu", "export")) is None
    install({"transformers": "4.0"}, lines=None)
    assert untested() is None


@pytest.mark.parametrize(("found", "code"), [("5.19.0", 2), ("5.25.0", 0)])
def test_commands_say_it_in_one_line(install, capsys: pytest.CaptureFixture[str], found: str, code: int) -> None:
    install({"transformers": found})
    ran = []
    try:
        command(argparse.ArgumentParser(prog="fastv-test"), ran.append, [])
        ended = 0
    except SystemExit as error:
        ended = error.code
    captured = capsys.readouterr()
    assert (ended, len(ran)) == (code, 0 if code else 1)
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(
        "fastv-test: warning: transformers: tested up" if code == 0 else "fastv-test: transformers 5"
    )


def test_a_command_of_ours_checks(install, capsys: pytest.CaptureFixture[str]) -> None:
    install({"transformers": "5.1.0"})
    with pytest.raises(SystemExit, match="2"):
        fastv_inspect(["nowhere.fastv"])
    assert capsys.readouterr().err.startswith("fastv-inspect: transformers 5.1.0 is installed, 5.20 or newer")


def test_onnxruntime_matters_where_it_runs_the_graphs() -> None:
    assert set(backend_extras(argparse.Namespace(backend="ort"))) == {"cpu", "gpu"}
    assert not backend_extras(argparse.Namespace(backend="trt"))


def test_caps_are_what_the_check_understands() -> None:
    capped = {}
    for line in importlib.metadata.requires("fastv-edge") or ():
        requirement = Requirement(line)
        caps = [each.version for each in requirement.specifier if each.operator == "<"]
        if caps:
            capped[requirement.name] = caps[0]
            assert {each.operator for each in requirement.specifier} == {">=", "<"}, line
            assert int(caps[0].split(".")[-1]) > 0, f"{line}: the cap is one above what was tested"
    everything = ("cpu", *export_extras(argparse.Namespace()))
    assert {"transformers", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime"} <= capped.keys()
    assert {requirement.name for requirement, *_ in versions._capped(everything)} <= capped.keys()
