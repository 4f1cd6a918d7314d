"""fastv: the seven commands as one, and completion for shells; -q everywhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fastv_runtime.cli.build import main as fastv_build
from fastv_runtime.cli.fastv import COMMANDS, main
from fastv_runtime.cli.run import main as fastv_run
from tests import processes
from tests.conftest import noise_image

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")


def ends(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    return caught.value.code


def test_the_commands_are_the_scripts_that_are_installed() -> None:
    scripts = dict(re.findall(r'^fastv-(\w+) = "(.+):main"$', PYPROJECT, re.MULTILINE))
    assert {name: each.module for name, each in COMMANDS.items()} == scripts
    assert 'fastv = "fastv_runtime.cli.fastv:main"' in PYPROJECT
    installed = {each.name: each.value for each in entry_points(group="console_scripts")}
    assert installed["fastv-run"] == "fastv_runtime.cli.run:main"


def test_a_command_is_the_same_command(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tiny_bundle), "--prompt", "What?", "--max-new-tokens", "3", "--json"]
    main(["run", *words])
    one = json.loads(capsys.readouterr().out)
    fastv_run(words)
    assert one["token_ids"] == json.loads(capsys.readouterr().out)["token_ids"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (
            ["runn"],
            2,
            "fastv: COMMAND runn: must be export, calibrate, run, serve, inspect, build, bench or completion\n",
        ),
        (["-q", "run"], 2, "fastv: unrecognized arguments: -q (see fastv --help)\n"),
        (["--", "run"], 2, "fastv: give the command first (see fastv --help)\n"),
        (["run", "--threads", "0"], 2, "fastv-run: --threads 0: must be a whole number, 1 to 1,024\n"),
        (["export"], 2, "fastv-export: the following arguments are required: SOURCE, -o/--output (see fastv-export"),
        (["completion", "fish"], 2, "fastv completion: SHELL fish: must be bash, zsh or tcsh\n"),
    ],
)
def test_what_is_no_command(words: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(*words) == code
    said = capsys.readouterr().err
    assert said.startswith(expected) and said.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(*words) == 0
    said = capsys.readouterr().out
    for name, each in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(each.summary)}$", said, re.MULTILINE)


@pytest.mark.parametrize("words", [["--version"], ["inspect", "--version"], ["calibrate", "--version"]])
def test_versions(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(*words) == 0
    assert re.fullmatch(r"fastv(-\w+)? \S+\n", capsys.readouterr().out)


def test_python_runs_it_too() -> None:
    done = processes.run(sys.executable, "-m", "fastv_runtime.cli", "run", "--length", "x")
    assert (done.returncode, done.stderr) == (2, "fastv-run: --length x: must be fixed or exact\n")


COMPLETE = """
source "$1"
ask() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); {function}; echo "${{COMPREPLY[@]}}"; }}
{asks}
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("of", "asks", "expected"),
    [
        (
            [],
            ["ask fastv ex", "ask fastv run --thr", "ask fastv export --precision in", "ask fastv run --qu"],
            ["export", "--threads", "int8 int4", "--quiet"],
        ),
        (["fastv-run"], ["ask fastv-run --image-a", "ask fastv-run --image-aspect p"], ["--image-aspect", "pad"]),
    ],
)
def test_bash_completes(
    of: list[str], asks: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["completion", "bash", *of])
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    function = "_shtab_" + (of[0] if of else "fastv").replace("-", "_")
    asked = COMPLETE.format(function=function, asks="\n".join(asks))
    done = subprocess.run(["bash", "-c", asked, "-", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == expected


def test_completion_names_what_installs_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert ends("completion", "bash") == 2
    assert capsys.readouterr().err == (
        "fastv completion: shtab is not installed: pip install -e '.[completion]' in the clone of fastv-edge\n"
    )


def test_quiet_says_nothing_but_the_answer(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise_image(0).save(tmp_path / "a.png")
    words = [str(tiny_bundle), "--image", str(tmp_path / "a.png"), "--prompt", "What?", "--max-new-tokens", "3"]
    fastv_run(words)
    loud = capsys.readouterr()
    assert "visual tokens kept" in loud.err
    fastv_run([*words, "-q"])
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == (loud.out, "")
    fastv_run(words)
    assert "visual tokens kept" in capsys.readouterr().err, "what one command was told is not the next one's"


def test_quiet_keeps_errors(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fastv_build([str(tiny_bundle), "--quiet"])
    assert capsys.readouterr().err.startswith("fastv-build: graph vision is of the dialect ort")


def test_text_alone_has_no_visual_tokens_to_count(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fastv_run([str(tiny_bundle), "--prompt", "What?", "--max-new-tokens", "3"])
    said = capsys.readouterr().err
    assert "visual tokens kept" not in said
    assert "first token after" in said
